//! `-A`, `-E`, `-D`: virtual services.

use std::net::{IpAddr, SocketAddr};

use super::super::remark::quote;
use super::super::words::{self, PersistenceMask};
use super::options::{CommandLine, Opt};
use super::{IpvsadmReader, Refused};
use crate::state::{Protocol, ServiceFlags, ServiceKey, VirtualService};

/// `-p` without a value, in seconds: `IPVS_SVC_PERSISTENT_TIMEOUT` of libipvs.h. The man page says 300;
/// ipvsadm 1.31 sets 360.
const PERSISTENCE: u32 = 360;

impl IpvsadmReader {
    pub(super) fn add_service(&mut self, given: &mut CommandLine<'_>) -> Result<(), Refused> {
        let key = self.key(given)?;
        let service = self.settings(&key, given)?;
        if self.rules.services.contains_key(&key) {
            return self.refuse(
                key.to_string(),
                "duplicate; the kernel would refuse it (EEXIST). The first one is used",
            );
        }
        self.rules.services.insert(key, service);
        Ok(())
    }

    pub(super) fn edit_service(&mut self, given: &mut CommandLine<'_>) -> Result<(), Refused> {
        let key = self.key(given)?;
        let service = self.settings(&key, given)?;
        let Some(old) = self.rules.services.get_mut(&key) else { return self.unknown(&key) };
        let destinations = std::mem::take(&mut old.destinations);
        *old = VirtualService { destinations, ..service };
        Ok(())
    }

    pub(super) fn delete_service(&mut self, given: &mut CommandLine<'_>) -> Result<(), Refused> {
        let key = self.key(given)?;
        match self.rules.services.remove(&key) {
            Some(_) => Ok(()),
            None => self.unknown(&key),
        }
    }

    pub(super) fn unknown<T>(&mut self, key: &ServiceKey) -> Result<T, Refused> {
        self.refuse(
            key.to_string(),
            "no earlier line added this service, or that line was left out; ipvsadm would refuse it",
        )
    }

    /// The key of the line's service.
    pub(super) fn key(&mut self, given: &mut CommandLine<'_>) -> Result<ServiceKey, Refused> {
        let ipv6 = given.has(Opt::Ipv6);
        if let Some(mark) = given.value(Opt::Fwmark) {
            return self.mark(mark, ipv6);
        }
        let kinds =
            [(Opt::Tcp, Protocol::Tcp), (Opt::Udp, Protocol::Udp), (Opt::Sctp, Protocol::Sctp)];
        for (opt, protocol) in kinds {
            let Some(text) = given.value(opt) else { continue };
            let (address, port) = self.address(text)?;
            return Ok(ServiceKey::Address(protocol, SocketAddr::new(address, port.unwrap_or(0))));
        }
        self.refuse("a line without -t, -u, --sctp-service or -f", "it names no service")
    }

    fn mark(&mut self, text: &str, v6: bool) -> Result<ServiceKey, Refused> {
        if let Some(mark) = words::number(text, 1, u32::MAX) {
            return Ok(ServiceKey::Fwmark { v6, mark });
        }
        // `ipvsadm -S` prints the upper half of the marks with %d.
        if let Some(mark) = text.parse::<i32>().ok().filter(|mark| *mark < 0) {
            let mark = mark.cast_unsigned();
            self.remarks.guessed(
                format!("firewall mark {text}"),
                format!("`ipvsadm -S` prints marks above 2147483647 as negative numbers: {mark}"),
            );
            return Ok(ServiceKey::Fwmark { v6, mark });
        }
        self.refuse(quote(text), "a firewall mark is a number from 1 to 4294967295")
    }

    /// `ADDRESS[:PORT]`, `[ADDRESS]:PORT`, port by number or name.
    pub(super) fn address(&mut self, text: &str) -> Result<(IpAddr, Option<u16>), Refused> {
        let (host, port) = split(text);
        let Some(address) = words::address(host) else {
            return self.refuse(
                quote(text),
                "it is not an address with a port; import does not look up host names: \
                 use the output of `ipvsadm -Sn`",
            );
        };
        match port {
            None => Ok((address, None)),
            Some(port) => match words::port(port) {
                Some(port) => Ok((address, Some(port))),
                None => self.refuse(
                    quote(text),
                    "its port is neither a number (0-65535) nor a known service name: \
                     use the output of `ipvsadm -Sn`",
                ),
            },
        }
    }

    fn settings(
        &mut self,
        key: &ServiceKey,
        given: &mut CommandLine<'_>,
    ) -> Result<VirtualService, Refused> {
        let scheduler = given.value(Opt::Scheduler).unwrap_or("wlc");
        if !words::is_scheduler_name(scheduler) {
            return self
                .refuse(quote(scheduler), "it is not a scheduler: a name of 1 to 15 letters");
        }
        let mut service = VirtualService::plain(key, scheduler);
        let mut flags = self.scheduler_flags(scheduler, given);
        if let Some((_, timeout)) = given.take(Opt::Persistent) {
            flags |= ServiceFlags::PERSISTENT;
            service.timeout = self.persistence(timeout);
        }
        if let Some(text) = given.value(Opt::Netmask) {
            service.netmask = self.netmask(text, key.is_ipv6()).unwrap_or(service.netmask);
        }
        service.engine = given.value(Opt::Engine).map(str::to_owned);
        if given.has(Opt::OnePacket) {
            flags |= self.one_packet(key);
        }
        service.flags = ServiceFlags::new(flags);
        let port = match key {
            ServiceKey::Address(_, address) => address.port(),
            ServiceKey::Fwmark { .. } => return Ok(service),
        };
        if port == 0 && !service.flags.has(ServiceFlags::PERSISTENT) {
            return self.refuse(
                key.to_string(),
                "a service for every port (port 0) must be persistent; ipvsadm and the kernel refuse it otherwise",
            );
        }
        Ok(service)
    }

    fn scheduler_flags(&mut self, scheduler: &str, given: &mut CommandLine<'_>) -> u32 {
        let mut flags = 0;
        let names = given.value(Opt::SchedulerFlags).unwrap_or_default();
        for name in names.split(',').filter(|name| !name.is_empty()) {
            match words::scheduler_flag(name, scheduler) {
                Ok(bit) => flags |= bit,
                Err(error) => self.remarks.not_understood(quote(name), error.why(scheduler)),
            }
        }
        flags
    }

    fn persistence(&mut self, text: Option<&str>) -> u32 {
        let Some(text) = text else {
            self.remarks.guessed(
                "-p without a timeout",
                format!("{PERSISTENCE} s, ipvsadm's default; its man page says 300"),
            );
            return PERSISTENCE;
        };
        words::number(text, 1, u32::MAX).unwrap_or_else(|| {
            self.remarks.guessed(
                format!("-p {}", quote(text)),
                format!("it is not a number of seconds; {PERSISTENCE}, ipvsadm's default, is used"),
            );
            PERSISTENCE
        })
    }

    fn netmask(&mut self, text: &str, ipv6: bool) -> Option<u32> {
        let Some(PersistenceMask { value, guessed }) = words::mask(text, ipv6) else {
            let form = if ipv6 { "a prefix length, 1-128" } else { "a mask such as 255.255.255.0" };
            self.remarks.guessed(
                format!("-M {}", quote(text)),
                format!("it is not {form}; the default (each client separately) is used"),
            );
            return None;
        };
        if guessed {
            self.remarks.guessed(
                format!("-M {text}"),
                "an IPv4 mask is dotted; read as a prefix length, where ipvsadm would read 0.0.0.N",
            );
        }
        Some(value)
    }

    fn one_packet(&mut self, key: &ServiceKey) -> u32 {
        match key {
            ServiceKey::Address(Protocol::Udp, _) | ServiceKey::Fwmark { .. } => {
                ServiceFlags::ONE_PACKET
            }
            ServiceKey::Address(..) => {
                self.remarks.not_understood(
                    "-o",
                    "one-packet scheduling works for UDP only, and ipvsadm refuses it here; left out",
                );
                0
            }
        }
    }
}

/// Host, and port if present.
fn split(text: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        return (host, rest.strip_prefix(':').or(Some(rest)).filter(|port| !port.is_empty()));
    }
    if words::address(text).is_some() {
        return (text, None);
    }
    match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    }
}
