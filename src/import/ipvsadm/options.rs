//! The options of every version of ipvsadm, parsed by popt's rules.

use std::borrow::Cow;

/// A command or option of ipvsadm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Opt {
    AddService,
    EditService,
    DeleteService,
    Clear,
    List,
    Zero,
    AddServer,
    EditServer,
    DeleteServer,
    Set,
    Restore,
    Save,
    StartDaemon,
    StopDaemon,
    Help,
    Version,
    Tcp,
    Udp,
    Sctp,
    Fwmark,
    Ipv6,
    Scheduler,
    Persistent,
    Netmask,
    Engine,
    OnePacket,
    SchedulerFlags,
    RealServer,
    Gatewaying,
    Ipip,
    Masquerading,
    /// `(null)`: `ipvsadm -S` prints it for a bypass destination, for which ipvsadm has no option.
    Bypass,
    /// `-b` after `-a`, in ipvsadm for kernels patched with FULLNAT.
    PatchedFullNat,
    Weight,
    Upper,
    Lower,
    TunType,
    TunPort,
    TunNoChecksum,
    TunChecksum,
    TunRemoteChecksum,
    McastInterface,
    SyncId,
    McastGroup,
    McastPort,
    McastTtl,
    SyncMaxLength,
    /// Changes only the format of a listing.
    Listing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OptionArgument {
    No,
    Optional,
    Needed,
}

/// Long name, short name, argument: ipvsadm.c of 1.20 to 1.31, `parse_options`.
const TABLE: &[(&str, Option<char>, OptionArgument, Opt)] = {
    use OptionArgument::{Needed, No, Optional};
    &[
        ("add-service", Some('A'), No, Opt::AddService),
        ("edit-service", Some('E'), No, Opt::EditService),
        ("delete-service", Some('D'), No, Opt::DeleteService),
        ("clear", Some('C'), No, Opt::Clear),
        ("list", Some('L'), No, Opt::List),
        ("list", Some('l'), No, Opt::List),
        ("zero", Some('Z'), No, Opt::Zero),
        ("add-server", Some('a'), No, Opt::AddServer),
        ("edit-server", Some('e'), No, Opt::EditServer),
        ("delete-server", Some('d'), No, Opt::DeleteServer),
        ("set", None, No, Opt::Set),
        ("restore", Some('R'), No, Opt::Restore),
        ("save", Some('S'), No, Opt::Save),
        ("start-daemon", None, Needed, Opt::StartDaemon),
        ("stop-daemon", None, Needed, Opt::StopDaemon),
        ("help", Some('h'), No, Opt::Help),
        ("version", Some('v'), No, Opt::Version),
        ("tcp-service", Some('t'), Needed, Opt::Tcp),
        ("udp-service", Some('u'), Needed, Opt::Udp),
        ("sctp-service", None, Needed, Opt::Sctp),
        ("fwmark-service", Some('f'), Needed, Opt::Fwmark),
        ("ipv6", Some('6'), No, Opt::Ipv6),
        ("scheduler", Some('s'), Needed, Opt::Scheduler),
        ("persistent", Some('p'), Optional, Opt::Persistent),
        ("netmask", Some('M'), Needed, Opt::Netmask),
        ("pe", None, Needed, Opt::Engine),
        ("ops", Some('o'), No, Opt::OnePacket),
        ("sched-flags", Some('b'), Needed, Opt::SchedulerFlags),
        ("real-server", Some('r'), Needed, Opt::RealServer),
        ("gatewaying", Some('g'), No, Opt::Gatewaying),
        ("ipip", Some('i'), No, Opt::Ipip),
        ("masquerading", Some('m'), No, Opt::Masquerading),
        ("weight", Some('w'), Needed, Opt::Weight),
        ("u-threshold", Some('x'), Needed, Opt::Upper),
        ("l-threshold", Some('y'), Needed, Opt::Lower),
        ("tun-type", None, Needed, Opt::TunType),
        ("tun-port", None, Needed, Opt::TunPort),
        ("tun-nocsum", None, No, Opt::TunNoChecksum),
        ("tun-csum", None, No, Opt::TunChecksum),
        ("tun-remcsum", None, No, Opt::TunRemoteChecksum),
        ("mcast-interface", None, Needed, Opt::McastInterface),
        ("syncid", None, Needed, Opt::SyncId),
        ("mcast-group", None, Needed, Opt::McastGroup),
        ("mcast-port", None, Needed, Opt::McastPort),
        ("mcast-ttl", None, Needed, Opt::McastTtl),
        ("sync-maxlen", None, Needed, Opt::SyncMaxLength),
        ("numeric", Some('n'), No, Opt::Listing),
        ("connection", Some('c'), No, Opt::Listing),
        ("timeout", None, No, Opt::Listing),
        ("daemon", None, No, Opt::Listing),
        ("stats", None, No, Opt::Listing),
        ("rate", None, No, Opt::Listing),
        ("thresholds", None, No, Opt::Listing),
        ("persistent-conn", None, No, Opt::Listing),
        ("tun-info", None, No, Opt::Listing),
        ("nosort", None, No, Opt::Listing),
        ("sort", None, No, Opt::Listing),
        ("exact", Some('X'), No, Opt::Listing),
    ]
};

impl Opt {
    /// Whether it is a command.
    pub fn is_command(self) -> bool {
        matches!(
            self,
            Self::AddService
                | Self::EditService
                | Self::DeleteService
                | Self::Clear
                | Self::List
                | Self::Zero
                | Self::AddServer
                | Self::EditServer
                | Self::DeleteServer
                | Self::Set
                | Self::Restore
                | Self::Save
                | Self::StartDaemon
                | Self::StopDaemon
                | Self::Help
                | Self::Version
        )
    }

    /// Its short form, else its long form.
    pub fn spelling(self) -> Cow<'static, str> {
        match TABLE.iter().find(|(_, _, _, opt)| *opt == self) {
            Some((_, Some(short), _, _)) => Cow::Owned(format!("-{short}")),
            Some((long, None, _, _)) => Cow::Owned(format!("--{long}")),
            None if self == Self::PatchedFullNat => Cow::Borrowed("-b"),
            None => Cow::Borrowed("(null)"),
        }
    }
}

/// A parsed line.
#[derive(Debug, Default)]
pub(super) struct CommandLine<'a> {
    options: Vec<(Opt, Option<&'a str>)>,
    /// Words that belong to no option.
    pub loose: Vec<&'a str>,
    /// Unknown options, and options without their argument.
    pub errors: Vec<OptionError<'a>>,
}

/// A word that cannot be parsed.
#[derive(Debug)]
pub(super) enum OptionError<'a> {
    /// An option of no version of ipvsadm.
    Unknown(&'a str),
    /// An option without its argument.
    Bare(Opt),
}

impl<'a> CommandLine<'a> {
    /// Parses the words of a line.
    pub fn parse(words: &[&'a str]) -> Self {
        let mut given = Self::default();
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            if let Some(long) = word.strip_prefix("--") {
                given.long(word, long, &mut words);
            } else if word.len() > 1 && word.starts_with('-') {
                given.short(word, &mut words);
            } else {
                given.bare(word, &mut words);
            }
        }
        given
    }

    fn long(
        &mut self,
        word: &'a str,
        name: &'a str,
        rest: &mut (impl Iterator<Item = &'a str> + Clone),
    ) {
        let (name, attached) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        };
        match TABLE.iter().find(|(long, ..)| *long == name) {
            None => self.errors.push(OptionError::Unknown(word)),
            Some((_, _, OptionArgument::No, _)) if attached.is_some() => {
                self.errors.push(OptionError::Unknown(word));
            }
            Some((_, _, argument, opt)) => self.option(*opt, *argument, attached, rest),
        }
    }

    /// `-At VIP:PORT`, `-w3`, `-w=3`: popt accepts them all.
    fn short(&mut self, word: &'a str, rest: &mut (impl Iterator<Item = &'a str> + Clone)) {
        let mut at = 1;
        while let Some(letter) = word.get(at..).and_then(|tail| tail.chars().next()) {
            at += letter.len_utf8();
            let tail = word.get(at..).unwrap_or_default();
            if letter == 'b' && self.is_about_a_server() {
                self.options.push((Opt::PatchedFullNat, None));
                continue;
            }
            let Some((_, _, argument, opt)) = TABLE.iter().find(|(_, s, ..)| *s == Some(letter))
            else {
                self.errors.push(OptionError::Unknown(word));
                return;
            };
            if *argument == OptionArgument::No {
                self.options.push((*opt, None));
                continue;
            }
            let tail = tail.strip_prefix('=').unwrap_or(tail);
            self.option(*opt, *argument, Some(tail).filter(|tail| !tail.is_empty()), rest);
            return;
        }
    }

    /// ipvsadm 1.27 and older print `pe sip` and `ops` without dashes, and cannot read their own output.
    fn bare(&mut self, word: &'a str, rest: &mut (impl Iterator<Item = &'a str> + Clone)) {
        match word {
            "ops" => self.options.push((Opt::OnePacket, None)),
            "pe" => self.option(Opt::Engine, OptionArgument::Needed, None, rest),
            "(null)" => self.options.push((Opt::Bypass, None)),
            _ => self.loose.push(word),
        }
    }

    fn option(
        &mut self,
        opt: Opt,
        argument: OptionArgument,
        attached: Option<&'a str>,
        rest: &mut (impl Iterator<Item = &'a str> + Clone),
    ) {
        let value = match argument {
            OptionArgument::No => None,
            OptionArgument::Needed => match attached.or_else(|| rest.next()) {
                Some(value) => Some(value),
                None => return self.errors.push(OptionError::Bare(opt)),
            },
            OptionArgument::Optional => attached.or_else(|| {
                let mut ahead = rest.clone();
                let next = ahead.next().filter(|next| is_value(next))?;
                *rest = ahead;
                Some(next)
            }),
        };
        self.options.push((opt, value));
    }

    fn is_about_a_server(&self) -> bool {
        let server = [Opt::AddServer, Opt::EditServer];
        self.options.iter().any(|(opt, _)| server.contains(opt))
    }

    /// The command of the line; `Err` with their number if not one.
    pub fn command(&mut self) -> Result<(Opt, Option<&'a str>), usize> {
        let commands: Vec<_> =
            self.options.iter().copied().filter(|(opt, _)| opt.is_command()).collect();
        let [command] = commands.as_slice() else { return Err(commands.len()) };
        self.options.retain(|(opt, _)| !opt.is_command());
        Ok(*command)
    }

    /// Removes an option and returns it with its argument.
    pub fn take(&mut self, wanted: Opt) -> Option<(Opt, Option<&'a str>)> {
        let at = self.options.iter().position(|(opt, _)| *opt == wanted)?;
        Some(self.options.remove(at))
    }

    /// Removes an option and returns its argument.
    pub fn value(&mut self, wanted: Opt) -> Option<&'a str> {
        self.take(wanted)?.1
    }

    /// Removes an option and returns whether it was present.
    pub fn has(&mut self, wanted: Opt) -> bool {
        self.take(wanted).is_some()
    }

    /// The options that were not removed.
    pub fn left(&self) -> &[(Opt, Option<&'a str>)] {
        &self.options
    }
}

/// Whether popt reads `word` as the value of an option with an optional argument.
fn is_value(word: &str) -> bool {
    !word.starts_with('-') && !matches!(word, "pe" | "ops")
}
