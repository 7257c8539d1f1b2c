//! Reads rules as `ipvsadm -S` and `-Sn` print them, as `ipvsadm -R` reads them, and as people write
//! them into scripts: one command a line, every spelling of every version.
//!
//! The commands are carried out one after the other on an empty table, with ipvsadm's own defaults
//! (ipvsadm(8)): scheduler wlc, weight 1, direct routing. What ipvsadm or the
//! kernel would refuse is not taken, and remarked upon.

mod daemons;
mod listing;
mod options;
mod servers;
mod services;

use options::{Given, Opt, Trouble};

use super::remark::{Remarks, quote};
use super::rules::Rules;

/// Whether a word only names the program: `ipvsadm -R` skips those too.
fn is_program(word: &str) -> bool {
    word.rsplit('/').next() == Some("ipvsadm")
}

/// The first word behind the name of the program.
pub(super) fn first_word(line: &str) -> Option<&str> {
    let words = || line.split_whitespace();
    let program = words().take_while(|word| !word.starts_with('#')).position(is_program);
    words().nth(program.map_or(0, |at| at + 1))
}

/// Whether a line of rules can start with this word.
pub(super) fn is_command(word: &str) -> bool {
    Given::parse(&[word, "-"]).command().is_ok() || listing::starts_with(word)
}

/// Reads rules. Total: any text gives a result.
pub fn read(text: &str) -> Rules {
    let mut reader = Reader::default();
    for (number, line) in logical_lines(text) {
        reader.remarks.line = Some(number);
        reader.line(&line);
    }
    let Reader { mut rules, remarks } = reader;
    rules.remarks = remarks.all;
    rules
}

/// Lines with their numbers; one that ends in a backslash goes on in the next.
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

/// The table while the commands are carried out.
#[derive(Default)]
struct Reader {
    rules: Rules,
    remarks: Remarks,
}

/// A command that could not be carried out; it was remarked upon.
struct Refused;

impl Reader {
    fn line(&mut self, line: &str) {
        let mut words: Vec<&str> = line
            .split_whitespace()
            .take_while(|word| !word.starts_with('#'))
            .map(|word| word.trim_matches(['"', '\'']))
            .collect();
        // A prompt, `sudo`, `ip netns exec lvs`: what starts the program is not its business.
        if let Some(at) = words.iter().rposition(|word| is_program(word)) {
            words.drain(..=at);
        }
        let Some(first) = words.first() else { return };
        if listing::starts_with(first) {
            self.remarks.not_understood(quote(line.trim()), listing::WHY);
            return;
        }
        let mut given = Given::parse(&words);
        let command = match given.command() {
            Ok(command) => command,
            Err(count) => {
                let why = if count == 0 {
                    "there is no command of ipvsadm in this line, such as -A or -a"
                } else {
                    "there are several commands in this line; ipvsadm takes one"
                };
                self.remarks.not_understood(quote(line.trim()), why);
                return;
            }
        };
        // Where the line as a whole is refused, that has been said.
        if self.carry_out(command, &mut given).is_ok() {
            self.rules.taken += 1;
            self.leftovers(&given);
        }
    }

    fn carry_out<'a>(
        &mut self,
        (command, value): (Opt, Option<&'a str>),
        given: &mut Given<'a>,
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
                // They say or count, and leave the table as it is; their options do not matter.
                *given = Given::default();
                self.remarks.not_understood(
                    other.spelling(),
                    "it changes no rule, so there is nothing to take over from this line",
                );
                Err(Refused)
            }
        }
    }

    /// What the command had no use for.
    fn leftovers(&mut self, given: &Given<'_>) {
        for (opt, value) in given.left() {
            let what = match value {
                Some(value) => format!("{} {}", opt.spelling(), quote(value)),
                None => opt.spelling().into_owned(),
            };
            let why = "it does not belong to this command, or stands here twice; it is left out";
            self.remarks.not_understood(what, why);
        }
        for trouble in &given.troubles {
            match trouble {
                Trouble::Unknown(word) => self.remarks.not_understood(
                    quote(word),
                    "no version of ipvsadm has this option; it is left out",
                ),
                Trouble::Bare(opt) => {
                    self.remarks.not_understood(opt.spelling(), "it needs a value, and has none");
                }
            }
        }
        for word in &given.loose {
            self.remarks.not_understood(quote(word), "it belongs to no option; it is left out");
        }
    }

    fn refuse<T>(&mut self, what: impl Into<String>, why: impl Into<String>) -> Result<T, Refused> {
        self.remarks.not_understood(what, why);
        Err(Refused)
    }
}
