//! The arguments of `render`, as clap reads them.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::names::HostName;

/// Other programs.
#[derive(Debug, Subcommand)]
pub enum RenderCommand {
    /// The rules of a director, for `ipvsadm -R`
    ///
    /// What such rules cannot express (addresses, settings, packet rules) goes to standard error, one line
    /// each.
    Ipvsadm {
        /// The topology file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Which director; needed if the file has several
        #[arg(long, value_name = "HOST")]
        director: Option<HostName>,
    },
    /// The services of a director and their checks, as keepalived's configuration
    ///
    /// For keepalived 2.2.7 and later. Services without `check:` are there too, without a check. What keepalived does
    /// not set (addresses, settings, packet rules, the services by mark that checks go through) goes to standard error, one
    /// line each.
    #[command(after_long_help = RENDER_KEEPALIVED_EXAMPLES)]
    Keepalived {
        /// The topology file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Which director; needed if the file has several
        #[arg(long, value_name = "DIRECTOR")]
        host: Option<HostName>,
    },
    /// What apply sets on one host, as files to install: for hosts without systemd, or where no agent may live
    ///
    /// Each file says what it is, for which host, and what it cannot keep. What a form leaves out goes to standard
    /// error, one line each. No host is touched.
    #[command(after_long_help = RENDER_HOST_EXAMPLES)]
    Host(RenderHost),
    /// An init script that makes a host's settings again at boot, for hosts without systemd
    ///
    /// The same for every host: it starts `lvsprov agent --boot`, and what is to be made again lies there since the
    /// last apply.
    InitScript {
        /// For which init system
        #[arg(long, value_enum, default_value_t = InitWord::Lsb)]
        init: InitWord,
    },
    /// The systemd unit that makes a host's settings again at boot
    ///
    /// The same for every host: what is to be made again lies there since the last apply. docs/reboot.md
    /// has how to install it.
    BootUnit,
}

const RENDER_KEEPALIVED_EXAMPLES: &str = "Examples:
  lvsprov render keepalived cluster.yaml > lvs.conf && keepalived -t -f lvs.conf   # exit code 0: keepalived takes it
  lvsprov render keepalived cluster.yaml --host lvs2                              # one of several directors";

const RENDER_HOST_EXAMPLES: &str = "Examples:
  lvsprov render host cluster.yaml --host web1 --as lsb > /etc/init.d/lvsprov
  lvsprov render host cluster.yaml --host web1 --as sysctl --out files   # files/etc/sysctl.d/...";

/// `render host`.
#[derive(Debug, Clone, Args)]
pub struct RenderHost {
    /// The topology file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Which host
    #[arg(long, value_name = "HOST")]
    pub host: HostName,
    /// In which form
    #[arg(long = "as", value_enum, value_name = "FORM")]
    pub form: HostFormWord,
    /// Write the files below this folder instead of standard output
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Overwrite files of --out
    #[arg(long, requires = "out")]
    pub force: bool,
}

/// An init system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InitWord {
    /// A script with an LSB header: sysvinit.
    Lsb,
    /// A script of OpenRC.
    Openrc,
}

/// A form of a host's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HostFormWord {
    /// One script with an LSB header, by ip, ipvsadm, nft and modprobe: all of it, in the order of an apply.
    Lsb,
    /// The same for OpenRC.
    Openrc,
    /// Fragments of sysctl.d and modules-load.d: values only.
    Sysctl,
    /// Stanzas of ifupdown: values, addresses and routes.
    Ifupdown,
    /// Files of systemd-networkd: addresses and routes.
    Networkd,
}
