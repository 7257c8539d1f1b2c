//! `--set`, `--start-daemon`, `--stop-daemon`.

use super::super::remark::quote;
use super::super::words;
use super::options::{CommandLine, Opt};
use super::{IpvsadmReader, Refused};
use crate::state::{DaemonRole, SyncDaemon};

/// ipvsadm's default of `--mcast-interface`.
const INTERFACE: &str = "eth0";

/// ipvsadm's longest timeout: 31 days, in seconds.
const LONGEST: u32 = 86_400 * 31;

impl IpvsadmReader {
    /// Three values: tcp, tcp after a FIN, udp; 0 leaves a timeout unchanged.
    pub(super) fn set_timeouts(&mut self, given: &mut CommandLine<'_>) -> Result<(), Refused> {
        let words = std::mem::take(&mut given.loose);
        let numbers: Vec<_> = words.iter().map(|word| words::number(word, 0, LONGEST)).collect();
        let [Some(tcp), Some(tcp_fin), Some(udp)] = numbers.as_slice() else {
            return self.refuse(
                format!("--set {}", quote(&words.join(" "))),
                "it needs three timeouts in seconds, 0-2678400: tcp, tcpfin, udp",
            );
        };
        let timeouts = &mut self.rules.timeouts;
        for (value, place) in
            [(tcp, &mut timeouts.tcp), (tcp_fin, &mut timeouts.tcp_fin), (udp, &mut timeouts.udp)]
        {
            if *value != 0 {
                *place = Some(*value);
            }
        }
        Ok(())
    }

    fn role(&mut self, text: &str) -> Result<DaemonRole, Refused> {
        text.parse().or_else(|()| self.refuse(quote(text), "a sync daemon is master or backup"))
    }

    pub(super) fn stop_daemon(&mut self, role: &str) -> Result<(), Refused> {
        let role = self.role(role)?;
        match self.rules.daemons.remove(&role) {
            Some(_) => Ok(()),
            None => {
                self.refuse(format!("--stop-daemon {role}"), "no earlier line started it; left out")
            }
        }
    }

    pub(super) fn start_daemon(
        &mut self,
        role: &str,
        given: &mut CommandLine<'_>,
    ) -> Result<(), Refused> {
        let role = self.role(role)?;
        let interface = given.value(Opt::McastInterface);
        if interface.is_none() {
            self.remarks.guessed(
                format!("--start-daemon {role}"),
                format!("it names no interface; {INTERFACE}, ipvsadm's default, is used"),
            );
        }
        let Ok(interface) = interface.unwrap_or(INTERFACE).parse() else {
            return self
                .refuse(quote(interface.unwrap_or_default()), "it is not a valid interface name");
        };
        let mut daemon = SyncDaemon::on(interface);
        let byte = |number: Option<u16>| number.and_then(|number| u8::try_from(number).ok());
        daemon.id = byte(self.daemon_number(Opt::SyncId, 0, 255, given)).unwrap_or(daemon.id);
        daemon.ttl = byte(self.daemon_number(Opt::McastTtl, 1, 255, given)).unwrap_or(daemon.ttl);
        daemon.port = self.daemon_number(Opt::McastPort, 1, 65_535, given).unwrap_or(daemon.port);
        daemon.max_length =
            self.daemon_number(Opt::SyncMaxLength, 1, 65_507, given).unwrap_or(daemon.max_length);
        daemon.group = self.group(given).unwrap_or(daemon.group);
        if self.rules.daemons.contains_key(&role) {
            return self.refuse(
                format!("--start-daemon {role}"),
                "an earlier line started it; the kernel would refuse it (EEXIST)",
            );
        }
        self.rules.daemons.insert(role, daemon);
        Ok(())
    }

    fn daemon_number(
        &mut self,
        opt: Opt,
        low: u32,
        high: u32,
        given: &mut CommandLine<'_>,
    ) -> Option<u16> {
        let text = given.value(opt)?;
        let number = words::number(text, low, high).and_then(|n| u16::try_from(n).ok());
        if number.is_none() {
            self.remarks.not_understood(
                format!("{} {}", opt.spelling(), quote(text)),
                format!("it is not a number from {low} to {high}; left out"),
            );
        }
        number
    }

    fn group(&mut self, given: &mut CommandLine<'_>) -> Option<std::net::IpAddr> {
        let text = given.value(Opt::McastGroup)?;
        let group = words::address(text).filter(std::net::IpAddr::is_multicast);
        if group.is_none() {
            self.remarks.not_understood(
                format!("--mcast-group {}", quote(text)),
                "it is not a multicast address; left out",
            );
        }
        group
    }
}
