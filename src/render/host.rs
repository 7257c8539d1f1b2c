//! What `apply` sets on one host, as files that an operator installs: for hosts without systemd, or where no agent may
//! live. Pure.
//!
//! The planner gives the steps and their order, as for a host that has nothing yet; each form takes what it can say of
//! them and names the rest. A host with systemd needs none of it.

use std::collections::BTreeSet;

use serde::Serialize;

use super::shell::{self, quote};
use super::{Unsupported, nft};
use crate::desired::Desired;
use crate::names::{HostName, IfName, TopologyName};
use crate::plan::{SimulateError, steps_between};
use crate::state::{Edit, HostState, Item, KeyedEdit, Link, PacketRules, Step, announcement};
use crate::topology::{Host, Topology};

const TEMPLATE: &str = include_str!("../../templates/init-script.sh.j2");

/// An init system without units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitSystem {
    /// Scripts with an LSB header in /etc/init.d: sysvinit.
    Lsb,
    /// OpenRC.
    OpenRc,
}

impl InitSystem {
    fn name(self) -> &'static str {
        match self {
            Self::Lsb => "lsb",
            Self::OpenRc => "openrc",
        }
    }

    fn install(self) -> &'static str {
        match self {
            Self::Lsb => {
                "Install it as /etc/init.d/lvsprov, mode 0755, then: update-rc.d lvsprov defaults"
            }
            Self::OpenRc => {
                "Install it as /etc/init.d/lvsprov, mode 0755, then: rc-update add lvsprov default"
            }
        }
    }
}

/// A form of a host's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostForm {
    /// One script that makes all of them.
    Script(InitSystem),
    /// Fragments of sysctl.d and modules-load.d.
    Sysctl,
    /// Stanzas of ifupdown.
    Ifupdown,
    /// Files of systemd-networkd.
    Networkd,
}

/// A file to install.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostFile {
    /// Its absolute path on the host.
    pub path: String,
    /// Its permissions.
    pub mode: u32,
    /// Its content.
    pub text: String,
}

/// The files of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFiles {
    /// In the order of their names.
    pub files: Vec<HostFile>,
    /// What they leave out.
    pub unsupported: Vec<Unsupported>,
}

/// Why a host's settings cannot be written so.
#[derive(Debug, thiserror::Error)]
pub enum HostFilesError {
    /// The planner contradicts itself.
    #[error("cannot plan the settings of {host}: this is a fault of lvsprov, please report it")]
    Plan {
        /// The host.
        host: HostName,
        /// Why.
        source: SimulateError,
    },
    /// The template is wrong.
    #[error("cannot write the init script: this is a fault of lvsprov, please report it")]
    Template {
        /// Why.
        source: minijinja::Error,
    },
    /// The name has characters with a meaning of their own.
    #[error(
        "the interface {0:?} cannot be named in files of ifupdown or networkd: its name has other characters than \
         letters, digits, '.', '_', '-' and '@'. `--as lsb` can name it"
    )]
    InterfaceName(IfName),
}

/// A step, with its command.
struct ScriptStep {
    step: Step,
    command: Option<String>,
}

/// The init script that starts the agent, for hosts without systemd on which `apply` has been.
///
/// # Errors
/// [`HostFilesError::Template`]: a fault of lvsprov.
pub fn agent_script(init: InitSystem) -> Result<String, HostFilesError> {
    let about = [
        "Settings of the LVS cluster, made again at boot: for hosts without systemd, the same for every host.".to_owned(),
        init.install().to_owned(),
        "The last apply left on the host what is made again. It needs the program below: copy lvsprov there.".to_owned(),
        "It does not follow a network that is configured anew: start it again after that.".to_owned(),
    ];
    let values = minijinja::context! {
        init => init.name(),
        about => about.to_vec(),
        commands => Vec::<String>::new(),
        withdraw => Vec::<String>::new(),
        program => quote(crate::agent::boot_unit::PROGRAM),
    };
    render(values)
}

/// The settings of `host` in this form.
///
/// # Errors
/// See [`HostFilesError`].
pub fn files(
    form: HostForm,
    topology: &Topology,
    host: &Host,
    desired: &Desired,
) -> Result<HostFiles, HostFilesError> {
    let all = steps(host, desired)
        .map_err(|source| HostFilesError::Plan { host: host.name.clone(), source })?;
    match form {
        HostForm::Script(init) => script(init, topology, host, (&desired.state, all)),
        HostForm::Sysctl => Ok(sysctl(&topology.name, host, &all)),
        HostForm::Ifupdown => super::interfaces::ifupdown(&topology.name, host, &all),
        HostForm::Networkd => super::interfaces::networkd(&topology.name, host, &all),
    }
}

/// What brings a bare host there, in the order of an apply. Its interfaces are up, and each setting has another value.
fn steps(host: &Host, desired: &Desired) -> Result<Vec<Step>, SimulateError> {
    let wanted = &desired.state;
    let mut bare = HostState::default();
    bare.links.extend(host.interfaces.keys().map(|dev| (dev.clone(), Link::Up)));
    bare.sysctls.extend(wanted.sysctls.keys().map(|key| (key.clone(), String::new())));
    // Those of a module come with it; of the others the host has a link.
    let brought: BTreeSet<&str> =
        wanted.modules.iter().filter_map(|module| module.device()).collect();
    for dev in wanted.links.keys().filter(|dev| !brought.contains(dev.as_str())) {
        if !wanted.tunnels.contains_key(dev) {
            bare.links.entry(dev.clone()).or_insert(Link::Down);
        }
    }
    Ok(steps_between(&bare, wanted, &wanted.items(), &desired.reasons)?.into_all())
}

fn script(
    init: InitSystem,
    topology: &Topology,
    host: &Host,
    (wanted, steps): (&HostState, Vec<Step>),
) -> Result<HostFiles, HostFilesError> {
    let mut unsupported = Vec::new();
    let mut with_commands = Vec::new();
    for step in steps {
        unsupported.extend(rules_without_words(&step.edit));
        match shell::command(&step.edit, wanted) {
            Ok(command) => with_commands.push(ScriptStep { step, command }),
            Err(why) => unsupported.push(left_out(&step.edit, why)),
        }
    }
    let mut about = vec![
        format!("What `lvsprov apply` sets on {} in the cluster {}, by ip, ipvsadm, nft and modprobe.", host.name, topology.name),
        "For a host without systemd, or where no agent may live.".to_owned(),
        init.install().to_owned(),
        "The order is that of an apply: ARP settings before a VIP, the VIP of a director last. Running it again mends what is missing.".to_owned(),
        "It does not take away what leaves the file, and knows no values from before. Write it anew when the file changes.".to_owned(),
        "It does not follow a network or firewall that is configured anew: start it again after that.".to_owned(),
        "It announces a VIP of IPv4 where arping is installed, one of IPv6 never: neighbours may remember another machine.".to_owned(),
    ];
    about.extend(unsupported.iter().map(|it| one_line(&format!("Left out: {it}"))));
    let commands: Vec<minijinja::Value> = with_commands
        .iter()
        .filter_map(|ScriptStep { step, command }| {
            let text = indented(command.as_deref()?);
            Some(minijinja::context! { why => one_line(reason(step)), text })
        })
        .collect();
    let withdraw = with_commands.iter().rev().filter_map(|it| shell::withdrawal(&it.step.edit));
    let withdraw: Vec<String> = withdraw.map(|line| format!("    {line}")).collect();
    let values =
        minijinja::context! { init => init.name(), about, commands, withdraw, program => "" };
    let text = render(values)?;
    let file = HostFile { path: "/etc/init.d/lvsprov".to_owned(), mode: 0o755, text };
    Ok(HostFiles { files: vec![file], unsupported })
}

/// Four blanks before each command, and behind it the way out where it fails; nothing within the text that a program
/// reads. Not `set -e`: that has no effect where a caller asks for the exit code (XCU, set).
fn indented(command: &str) -> String {
    let mut reads = false;
    let lines = command.lines().map(|line| {
        let inside = reads;
        reads = (reads || line.ends_with("<<'RULES'")) && line != "RULES";
        if inside { line.to_owned() } else { format!("    {line} || return") }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The reason of a step, without what the agent does along with it.
fn reason(step: &Step) -> &str {
    let why = step.why.as_str();
    let announced = announcement::describe(&step.edit);
    announced.and_then(|it| why.strip_suffix(&format!("; {it}"))).unwrap_or(why)
}

fn render(values: minijinja::Value) -> Result<String, HostFilesError> {
    let mut environment = minijinja::Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    let text = environment
        .render_named_str("init-script", TEMPLATE, values)
        .map_err(|source| HostFilesError::Template { source })?;
    Ok(text.trim_end().to_owned() + "\n")
}

/// Rules of a table that no form has words for.
fn rules_without_words(edit: &Edit) -> Vec<Unsupported> {
    let Edit::Table(KeyedEdit { key, after: Some(PacketRules { rules }), .. }) = edit else {
        return Vec::new();
    };
    let without = rules.iter().filter(|rule| !nft::can_say(rule));
    let unsupported = without.map(|rule| Unsupported {
        what: format!("{rule} (table {key})"),
        why: "nft has no words for the packet inside: without it the tunnel takes packets that any host has wrapped"
            .to_owned(),
    });
    unsupported.collect()
}

/// What an edit sets, and why a form does not.
pub(super) fn left_out(edit: &Edit, why: &str) -> Unsupported {
    Unsupported { what: edit.item().to_string(), why: why.to_owned() }
}

/// Fit for a comment: no line ends, no control characters.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn sysctl(topology: &TopologyName, host: &Host, steps: &[Step]) -> HostFiles {
    let (mut lines, mut modules, mut unsupported) = (Vec::new(), Vec::new(), Vec::new());
    for step in steps {
        match &step.edit {
            Edit::Sysctl(KeyedEdit { key, after: Some(value), .. }) => {
                // A leading `-`: no error where it does not exist yet (sysctl.d(5)).
                lines.push(format!("# {}\n-{key} = {value}", one_line(&step.why)));
            }
            Edit::Module(edit) => modules.push(edit.key.as_str()),
            Edit::Destination(_) => {}
            edit => unsupported.push(left_out(edit, "sysctl.d sets values below /proc/sys alone")),
        }
    }
    let about = [
        format!("Values that {} needs in the cluster {topology}.", host.name),
        "What it cannot keep: udev applies it to every interface that appears, but never to lo; net.ipv4.vs.* exists only".to_owned(),
        "once ip_vs is loaded (modules-load.d beside it); and nothing orders it before a VIP that another program adds.".to_owned(),
    ];
    let mut files = Vec::new();
    if !modules.is_empty() {
        let about = [format!("Modules that {} needs in the cluster {topology}.", host.name)];
        let text = comment(&about) + &modules.join("\n") + "\n";
        let path = format!("/etc/modules-load.d/lvsprov-{topology}.conf");
        files.push(HostFile { path, mode: 0o644, text });
    }
    if !lines.is_empty() {
        let text = comment(&about) + &lines.join("\n") + "\n";
        let path = format!("/etc/sysctl.d/90-lvsprov-{topology}.conf");
        files.push(HostFile { path, mode: 0o644, text });
    }
    HostFiles { files, unsupported }
}

/// The lines as comments.
fn comment(lines: &[String]) -> String {
    let lines: Vec<String> = lines.iter().map(|line| format!("# {line}\n")).collect();
    lines.concat()
}

/// Whether the edit is about IPVS or packets, which neither ifupdown nor networkd knows.
pub(super) fn is_of_other_programs(edit: &Edit) -> bool {
    matches!(
        edit.item(),
        Item::Service(_)
            | Item::Timeouts
            | Item::Daemon(_)
            | Item::Table(_)
            | Item::GuePort(_)
            | Item::Instance(_)
    )
}
