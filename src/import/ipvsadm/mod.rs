//! Reads ipvsadm rules: the output of `ipvsadm -S` and `-Sn`, the input of `ipvsadm -R`, and commands in
//! scripts. One command on each line, in every spelling of every version.
//!
//! The commands run one after the other on an empty table, with ipvsadm's own defaults (ipvsadm(8)):
//! scheduler wlc, weight 1, direct routing. A command that ipvsadm or the kernel would refuse is left out
//! with a remark.

mod daemons;
mod listing;
mod options;
mod servers;
mod services;

use options::{CommandLine, Opt, OptionError};

use super::remark::{Remarks, quote};
use super::rules::IpvsRules;

/// Whether a word is the program's name, which `ipvsadm -R` skips too.
fn is_program(word: &str) -> bool {
    word.rsplit('/').next() == Some("ipvsadm")
}

/// The first word after the program's name.
pub(super) fn first_word(line: &str) -> Option<&str> {
    let words = || line.split_whitespace();
    let program = words().take_while(|word| !word.starts_with('#')).position(is_program);
    words().nth(program.map_or(0, |at| at + 1))
}

/// Whether a line of rules can start with `word`.
pub(super) fn is_command(word: &str) -> bool {
    CommandLine::parse(&[word, "-"]).command().is_ok() || listing::starts_with(word)
}

/// Reads rules. Total: any text gives a result.
pub fn read(text: &str) -> IpvsRules {
    let mut reader = IpvsadmReader::default();
    for (number, line) in logical_lines(text) {
        reader.remarks.line = Some(number);
        reader.line(&line);
    }
    let IpvsadmReader { mut rules, remarks } = reader;
    rules.remarks = remarks.all;
    rules
}

/// Lines with their numbers; a line that ends in a backslash continues on the next.
pub(super) fn logical_lines(text: &str) -> Vec<(u32, String)> {
    let mut lines: Vec<(u32, String)> = Vec::new();
    let mut goes_on = false;
    for (number, line) in (1..).zip(text.lines()) {
        let (line, continued) = match line.trim_end().strip_suffix('\\') {
            Some(line) => (line, true),
            None => (line, false),
        };
        match lines.last_mut().filter(|_| goes_on) {
            Some((_, last)) => {
                last.push(' ');
                last.push_str(line);
            }
            None => lines.push((number, line.to_owned())),
        }
        goes_on = continued;
    }
    lines
}

/// The table while the commands run.
#[derive(Default)]
struct IpvsadmReader {
    rules: IpvsRules,
    remarks: Remarks,
}

/// A refused command; a remark has the reason.
struct Refused;

impl IpvsadmReader {
    fn line(&mut self, line: &str) {
        let mut words: Vec<&str> = line
            .split_whitespace()
            .take_while(|word| !word.starts_with('#'))
            .map(|word| word.trim_matches(['"', '\'']))
            .collect();
        // Skips a prompt, `sudo` or `ip netns exec lvs` before the program.
        if let Some(at) = words.iter().rposition(|word| is_program(word)) {
            words.drain(..=at);
        }
        let Some(first) = words.first() else { return };
        if listing::starts_with(first) {
            self.remarks.not_understood(quote(line.trim()), listing::WHY);
            return;
        }
        let mut given = CommandLine::parse(&words);
        let command = match given.command() {
            Ok(command) => command,
            Err(count) => {
                let why = if count == 0 {
                    "this line has no ipvsadm command, such as -A or -a"
                } else {
                    "this line has several commands; ipvsadm takes one"
                };
                self.remarks.not_understood(quote(line.trim()), why);
                return;
            }
        };
        // A refused line already has a remark.
        if self.execute(command, &mut given).is_ok() {
            self.rules.taken += 1;
            self.leftovers(&given);
        }
    }

    fn execute<'a>(
        &mut self,
        (command, value): (Opt, Option<&'a str>),
        given: &mut CommandLine<'a>,
    ) -> Result<(), Refused> {
        match command {
            Opt::AddService => self.add_service(given),
            Opt::EditService => self.edit_service(given),
            Opt::DeleteService => self.delete_service(given),
            Opt::AddServer => self.add_server(given),
            Opt::EditServer => self.edit_server(given),
            Opt::DeleteServer => self.delete_server(given),
            Opt::Clear => {
                self.rules.services.clear();
                Ok(())
            }
            Opt::Set => self.set_timeouts(given),
            Opt::StartDaemon => self.start_daemon(value.unwrap_or_default(), given),
            Opt::StopDaemon => self.stop_daemon(value.unwrap_or_default()),
            other => {
                // These commands print or reset counters: they do not change the table.
                *given = CommandLine::default();
                self.remarks.not_understood(other.spelling(), "it changes no rule; left out");
                Err(Refused)
            }
        }
    }

    /// Reports options and words that the command does not use.
    fn leftovers(&mut self, given: &CommandLine<'_>) {
        for (opt, value) in given.left() {
            let what = match value {
                Some(value) => format!("{} {}", opt.spelling(), quote(value)),
                None => opt.spelling().into_owned(),
            };
            let why = "this command does not take it, or the line has it twice; left out";
            self.remarks.not_understood(what, why);
        }
        for error in &given.errors {
            match error {
                OptionError::Unknown(word) => self
                    .remarks
                    .not_understood(quote(word), "no version of ipvsadm has this option; left out"),
                OptionError::Bare(opt) => {
                    self.remarks.not_understood(opt.spelling(), "it needs a value; left out");
                }
            }
        }
        for word in &given.loose {
            self.remarks.not_understood(quote(word), "it belongs to no option; left out");
        }
    }

    fn refuse<T>(&mut self, what: impl Into<String>, why: impl Into<String>) -> Result<T, Refused> {
        self.remarks.not_understood(what, why);
        Err(Refused)
    }
}
