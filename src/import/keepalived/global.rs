//! `global_defs`: timeouts and the sync daemon.

use super::super::remark::quote;
use super::super::words;
use super::KeepalivedReader;
use super::left_out::LeftOutTopic;
use super::tree::Statement;
use crate::state::{DaemonRole, SyncDaemon};

/// keepalived's longest timeout: 31 days, in seconds (`LVS_MAX_TIMEOUT`).
const LONGEST: u32 = 86_400 * 31;

impl KeepalivedReader {
    pub(super) fn global(&mut self, block: &Statement) {
        for statement in block.children() {
            self.remarks.line = Some(statement.line);
            match statement.keyword() {
                "lvs_timeouts" => self.timeouts(statement),
                "lvs_sync_daemon" => self.sync_daemon(statement),
                "lvs_flush" => self.remarks.not_expressible(
                    "lvs_flush",
                    "keepalived empties the table at its start; write `ipvs: exclusive` for a table with only \
                     lvsprov's services",
                ),
                word if word.starts_with("vrrp_") => self.left_out.add(LeftOutTopic::Vrrp, statement),
                _ => self.left_out.add(LeftOutTopic::Process, statement),
            }
        }
    }

    fn timeouts(&mut self, statement: &Statement) {
        let mut words = statement.words.iter().skip(1);
        while let Some(name) = words.next() {
            let value = words.next().map_or("", String::as_str);
            let Some(seconds) = words::number(value, 0, LONGEST) else {
                self.remarks.not_understood(
                    format!("lvs_timeouts {} {}", quote(name), quote(value)),
                    "a timeout is a number of seconds, 0-2678400; left out",
                );
                continue;
            };
            let timeouts = &mut self.rules.timeouts;
            let place = match name.as_str() {
                "tcp" => &mut timeouts.tcp,
                "tcpfin" => &mut timeouts.tcp_fin,
                "udp" => &mut timeouts.udp,
                _ => {
                    self.remarks.not_understood(
                        format!("lvs_timeouts {}", quote(name)),
                        "the timeouts are tcp, tcpfin and udp; left out",
                    );
                    continue;
                }
            };
            // 0 leaves the timeout unchanged.
            *place = Some(seconds).filter(|seconds| *seconds != 0);
            self.rules.taken += 1;
        }
    }

    /// `lvs_sync_daemon IF [inst INSTANCE] [id N] [maxlen N] [port N] [ttl N] [group ADDRESS]`, and the
    /// older `lvs_sync_daemon IF INSTANCE [N]`.
    fn sync_daemon(&mut self, statement: &Statement) {
        let Some(interface) = statement.word(1).and_then(|word| word.parse().ok()) else {
            self.remarks.not_understood("lvs_sync_daemon", "it names no interface");
            return;
        };
        let mut daemon = SyncDaemon::on(interface);
        let mut id = None;
        let mut at = 2;
        while let Some(word) = statement.word(at) {
            let value = statement.word(at + 1).unwrap_or_default();
            // The older form: instance and number without keywords.
            let old = match at {
                2 => !KEYWORDS.contains(&word),
                3 => words::number(word, 0, 255).is_some(),
                _ => false,
            };
            if old {
                id = words::number(word, 0, 255).filter(|_| at == 3).or(id);
                at += 1;
                continue;
            }
            if daemon_option(&mut daemon, &mut id, word, value).is_none() {
                self.remarks.not_understood(
                    format!("lvs_sync_daemon {} {}", quote(word), quote(value)),
                    "the options are inst, id, maxlen, port, ttl and group, each with a value in range; left out",
                );
            }
            at += 2;
        }
        daemon.id = id.and_then(|id| u8::try_from(id).ok()).unwrap_or(0);
        let what = if id.is_none() {
            "master, with id 0: keepalived sends as VRRP master and receives as backup, and uses the \
             virtual_router_id if no id is given"
        } else {
            "master: keepalived sends as VRRP master and receives as backup"
        };
        self.remarks.guessed("lvs_sync_daemon", what);
        self.rules.daemons.insert(DaemonRole::Master, daemon);
        self.rules.taken += 1;
    }
}

/// Options after the interface of `lvs_sync_daemon`.
const KEYWORDS: &[&str] = &["inst", "id", "maxlen", "port", "ttl", "group"];

/// Sets one option; `None` if it is unknown or out of range.
fn daemon_option(
    daemon: &mut SyncDaemon,
    id: &mut Option<u32>,
    word: &str,
    value: &str,
) -> Option<()> {
    match word {
        "inst" => {}
        "id" => *id = Some(words::number(value, 0, 255)?),
        "maxlen" => daemon.max_length = u16::try_from(words::number(value, 1, 65_507)?).ok()?,
        "port" => daemon.port = u16::try_from(words::number(value, 1, 65_535)?).ok()?,
        "ttl" => daemon.ttl = u8::try_from(words::number(value, 1, 255)?).ok()?,
        "group" => daemon.group = words::address(value).filter(std::net::IpAddr::is_multicast)?,
        _ => return None,
    }
    Some(())
}
