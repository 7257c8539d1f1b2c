//! `-a`, `-e`, `-d`: real servers.

use super::super::remark::quote;
use super::super::words;
use super::options::{CommandLine, Opt};
use super::{IpvsadmReader, Refused};
use crate::state::{Destination, DestinationKey, ForwardingMethod, ServiceKey, Tunnel};

impl IpvsadmReader {
    pub(super) fn add_server(&mut self, given: &mut CommandLine<'_>) -> Result<(), Refused> {
        let (service, key, destination) = self.server(given)?;
        let Some(found) = self.rules.services.get_mut(&service) else {
            return self.unknown(&service);
        };
        if found.destinations.contains_key(&key) {
            return self.refuse(
                format!("{key} of {service}"),
                "duplicate; the kernel would refuse it (EEXIST). The first one is used",
            );
        }
        found.destinations.insert(key, destination);
        Ok(())
    }

    pub(super) fn edit_server(&mut self, given: &mut CommandLine<'_>) -> Result<(), Refused> {
        let (service, key, destination) = self.server(given)?;
        match self.rules.services.get_mut(&service).and_then(|s| s.destinations.get_mut(&key)) {
            Some(old) => {
                *old = destination;
                Ok(())
            }
            None => self.unknown_server(&service, key),
        }
    }

    pub(super) fn delete_server(&mut self, given: &mut CommandLine<'_>) -> Result<(), Refused> {
        let service = self.key(given)?;
        let key = self.server_key(&service, given)?;
        match self.rules.services.get_mut(&service).and_then(|s| s.destinations.remove(&key)) {
            Some(_) => Ok(()),
            None => self.unknown_server(&service, key),
        }
    }

    fn unknown_server(&mut self, service: &ServiceKey, key: DestinationKey) -> Result<(), Refused> {
        self.refuse(
            format!("{key} of {service}"),
            "no earlier line added this real server; ipvsadm would refuse it",
        )
    }

    fn server(
        &mut self,
        given: &mut CommandLine<'_>,
    ) -> Result<(ServiceKey, DestinationKey, Destination), Refused> {
        let service = self.key(given)?;
        let mut key = self.server_key(&service, given)?;
        let method = self.method(given)?;
        let tunnel = self.tunnel(method, given)?;
        if let ServiceKey::Address(_, vip) = &service
            && method != ForwardingMethod::Masquerade
            && key.0.port() != vip.port()
        {
            self.remarks.guessed(
                format!("{key} of {service}"),
                format!(
                    "only NAT maps ports: ipvsadm and the kernel use port {} instead",
                    vip.port()
                ),
            );
            key.0.set_port(vip.port());
        }
        if key.0.is_ipv6() != service.is_ipv6() && method != ForwardingMethod::Tunnel {
            return self.refuse(
                format!("{key} of {service}"),
                "a real server of another address family needs a tunnel; the kernel refuses it",
            );
        }
        let weight = self.weight(given);
        let (upper_threshold, lower_threshold) = self.thresholds(given);
        let destination = Destination { method, weight, upper_threshold, lower_threshold, tunnel };
        Ok((service, key, destination))
    }

    fn server_key(
        &mut self,
        service: &ServiceKey,
        given: &mut CommandLine<'_>,
    ) -> Result<DestinationKey, Refused> {
        let Some(text) = given.value(Opt::RealServer) else {
            return self.refuse("a line without -r", "it names no real server");
        };
        let (address, port) = self.address(text)?;
        let default = match service {
            ServiceKey::Address(_, vip) => vip.port(),
            ServiceKey::Fwmark { .. } => 0,
        };
        Ok(DestinationKey::new(address, port.unwrap_or(default)))
    }

    fn method(&mut self, given: &mut CommandLine<'_>) -> Result<ForwardingMethod, Refused> {
        if given.has(Opt::PatchedFullNat) {
            self.remarks.guessed(
                "-b of a real server",
                "FULLNAT of a patched kernel becomes NAT; write `forward: fullnat` in the topology, which every \
                 kernel supports",
            );
            return Ok(ForwardingMethod::Masquerade);
        }
        if given.has(Opt::Bypass) {
            self.remarks
                .not_expressible("(null)", "a bypass destination; only the kernel creates them");
            return Err(Refused);
        }
        let methods = [
            (Opt::Gatewaying, ForwardingMethod::DirectRoute),
            (Opt::Ipip, ForwardingMethod::Tunnel),
            (Opt::Masquerading, ForwardingMethod::Masquerade),
        ];
        for (opt, method) in methods {
            if given.has(opt) {
                return Ok(method);
            }
        }
        Ok(ForwardingMethod::DirectRoute)
    }

    fn weight(&mut self, given: &mut CommandLine<'_>) -> u32 {
        let Some(text) = given.value(Opt::Weight) else { return 1 };
        words::number(text, 0, i32::MAX.cast_unsigned()).unwrap_or_else(|| {
            self.remarks.guessed(
                format!("-w {}", quote(text)),
                "it is not a weight (0-2147483647); 1, the default, is used",
            );
            1
        })
    }

    /// Upper and lower threshold; 0: none.
    fn thresholds(&mut self, given: &mut CommandLine<'_>) -> (u32, u32) {
        let mut read = |opt| {
            let Some(text) = given.value(opt) else { return 0 };
            words::number(text, 0, u32::MAX).unwrap_or_else(|| {
                self.remarks.not_understood(
                    format!("{} {}", opt.spelling(), quote(text)),
                    "it is not a number of connections; no limit is set",
                );
                0
            })
        };
        let (upper, lower) = (read(Opt::Upper), read(Opt::Lower));
        if lower > upper {
            self.remarks.not_understood(
                format!("-x {upper} -y {lower}"),
                "the lower threshold is above the upper one; the kernel refuses that (ERANGE); both left out",
            );
            return (0, 0);
        }
        (upper, lower)
    }

    fn tunnel(
        &mut self,
        method: ForwardingMethod,
        given: &mut CommandLine<'_>,
    ) -> Result<Tunnel, Refused> {
        let kind = given.value(Opt::TunType);
        let port = given.value(Opt::TunPort);
        let sums = [(Opt::TunNoChecksum, 0), (Opt::TunChecksum, 1), (Opt::TunRemoteChecksum, 2)];
        let flags: Vec<u16> =
            sums.into_iter().filter(|(opt, _)| given.has(*opt)).map(|(_, bits)| bits).collect();
        let any = kind.is_some() || port.is_some() || !flags.is_empty();
        if any && method != ForwardingMethod::Tunnel {
            return self.refuse("--tun-...", "tunnel options need -i; ipvsadm refuses the line");
        }
        let flags = match flags.as_slice() {
            [] => 0,
            [one] => *one,
            _ => return self.refuse("--tun-...csum", "ipvsadm takes one of them"),
        };
        match kind.unwrap_or("ipip") {
            "ipip" if port.is_none() && flags == 0 => Ok(Tunnel::Ipip),
            "gre" if port.is_none() && flags < 2 => Ok(Tunnel::Gre { flags }),
            "gue" => match port.and_then(|text| words::number(text, 1, 65_535)) {
                Some(port) => Ok(Tunnel::Gue { port: u16::try_from(port).unwrap_or(0), flags }),
                None => self.refuse("--tun-type gue", "it needs --tun-port with a port, 1-65535"),
            },
            "ipip" | "gre" => self.refuse(
                format!("--tun-type {}", kind.unwrap_or("ipip")),
                "it does not take these --tun options; ipvsadm refuses the line",
            ),
            other => self.refuse(quote(other), "it is not a tunnel type: write ipip, gue or gre"),
        }
    }
}
