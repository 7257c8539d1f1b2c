//! Exchanging the scheduler of a service in place, without a refused connection.
//!
//! The kernel takes the old scheduler away, waits until no CPU uses it any more (`synchronize_rcu`, some
//! ten milliseconds) and only then binds the new one (net/netfilter/ipvs/ip_vs_ctl.c,
//! `ip_vs_edit_service`). A connection that begins in between finds no scheduler and is refused with
//! ICMP port unreachable (ip_vs_core.c, `ip_vs_leave`), which ends the client's connect(2) at once.
//! Nothing else that can be edited has such a moment: flags, timeout, mask and engine are single stores.
//!
//! So for that moment the director drops what begins, without a word: TCP and SCTP send it again a second
//! later (RFC 6298, 2: the first timeout is 1 s) and are answered. `net.ipv4.vs.drop_packet=3` drops one
//! packet in `am_droprate` of those that would begin a connection (ip_vs_proto_tcp.c,
//! `tcp_conn_schedule`; `ip_vs_todrop`), so all of them where that is 1; packets of connections that are
//! there pass. It takes effect as it is written (ip_vs_ctl.c, `proc_do_defense_mode`). It is for
//! all services of the director. A rule of nftables would be for one, but needs modules that a
//! director may not have, and that would stay.
//!
//! Pure.

use crate::state::{
    Edit, HostState, Protocol, ServiceKey, Stage, Step, Sysctl, VirtualService, VsItem,
};

/// What a connection is dropped by while it begins.
pub const DROP_PACKET: Sysctl = Sysctl::Vs(VsItem::DropPacket);
/// One packet in how many.
pub const AM_DROPRATE: Sysctl = Sysctl::Vs(VsItem::AmDroprate);

/// The steps before and after the service changes from `before` to `after` on a director in `state`.
/// `None`: there is no moment without a scheduler, or nothing can be done about it.
pub fn around(
    before: &VirtualService,
    after: &VirtualService,
    state: &HostState,
) -> Option<(Vec<Step>, Vec<Step>)> {
    if before.scheduler == after.scheduler {
        return None;
    }
    let (drop, rate) = (state.sysctls.get(&DROP_PACKET)?, state.sysctls.get(&AM_DROPRATE)?);
    if drop != "0" {
        // Under attack. The kernel moves these itself, and takes up a new rate a second later only.
        return None;
    }
    let why = format!(
        "while the kernel exchanges the scheduler ({} -> {}) there is none for some milliseconds, and new \
         connections would be refused: dropped silently instead, clients send again after a second",
        before.scheduler, after.scheduler
    );
    let back = "put back: the new scheduler is there".to_owned();
    let set = |key: &Sysctl, before: &str, after: &str, why: &str| Step {
        edit: Edit::change::<Sysctl>(key.clone(), before.to_owned(), after.to_owned()),
        why: why.to_owned(),
    };
    let mut first = vec![set(&DROP_PACKET, "0", "3", &why)];
    let mut last = vec![set(&DROP_PACKET, "3", "0", &back)];
    if rate != "1" {
        let all = "so that it is every packet that begins a connection";
        first.insert(0, set(&AM_DROPRATE, rate, "1", all));
        last.push(set(&AM_DROPRATE, "1", rate, &back));
    }
    Some((first, last))
}

/// A caution for a plan that exchanges a scheduler: a datagram is not sent again, and where the director
/// already drops packets nothing is done about the moment without a scheduler.
pub fn caution(stages: &[(Stage, Vec<Step>)], seen: &HostState) -> Option<String> {
    let edits = || stages.iter().flat_map(|(_, steps)| steps).map(|step| &step.edit);
    let exchanged = edits().find_map(|edit| {
        let (key, before, after) = edit.changed::<VirtualService>()?;
        (before.scheduler != after.scheduler).then_some(key)
    })?;
    let drops = |(key, _, after): (&Sysctl, &String, &String)| *key == DROP_PACKET && after == "3";
    let silent = edits().any(|edit| edit.changed::<Sysctl>().is_some_and(drops));
    if !silent {
        let occupied = seen.services.get(exchanged).is_some_and(|s| !s.destinations.is_empty());
        return occupied.then(|| {
            format!(
                "while the kernel exchanges the scheduler of {exchanged}, new connections are refused for \
                 some milliseconds: {DROP_PACKET} is in use, so they cannot be dropped instead"
            )
        });
    }
    let datagrams = |key: &ServiceKey| match key {
        ServiceKey::Address(protocol, _) => *protocol == Protocol::Udp,
        ServiceKey::Fwmark { .. } => true,
    };
    seen.services.keys().any(datagrams).then(|| {
        "while the kernel exchanges a scheduler, this director drops for some milliseconds whatever begins a \
         connection: TCP and SCTP send it again, but datagrams of new UDP clients are lost"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn service(scheduler: &str, flags: u32) -> VirtualService {
        let key = "tcp 192.0.2.1:80".parse().unwrap();
        VirtualService {
            flags: crate::state::ServiceFlags::new(flags),
            ..VirtualService::plain(&key, scheduler)
        }
    }

    fn state(drop: &str, rate: &str) -> HostState {
        let mut state = HostState::default();
        state.sysctls.insert(DROP_PACKET, drop.to_owned());
        state.sysctls.insert(AM_DROPRATE, rate.to_owned());
        state
    }

    fn lines(steps: &[Step]) -> Vec<String> {
        steps.iter().map(|step| step.edit.to_string()).collect()
    }

    #[test]
    fn all_that_begins_is_dropped_and_both_settings_are_put_back() {
        let (first, last) =
            around(&service("rr", 0), &service("sh", 0), &state("0", "10")).unwrap();
        assert_eq!(
            lines(&first),
            ["set net.ipv4.vs.am_droprate: 10 -> 1", "set net.ipv4.vs.drop_packet: 0 -> 3"]
        );
        assert_eq!(
            lines(&last),
            ["set net.ipv4.vs.drop_packet: 3 -> 0", "set net.ipv4.vs.am_droprate: 1 -> 10"]
        );
        let (first, last) = around(&service("rr", 0), &service("sh", 0), &state("0", "1")).unwrap();
        assert_eq!((first.len(), last.len()), (1, 1));
    }

    #[test]
    fn only_around_an_exchange_of_the_scheduler_and_where_it_can_be_done() {
        let rr = service("rr", 0);
        assert_eq!(around(&rr, &service("rr", 1), &state("0", "10")), None);
        for drop in ["1", "2", "3"] {
            assert_eq!(around(&rr, &service("sh", 0), &state(drop, "10")), None);
        }
        assert_eq!(around(&rr, &service("sh", 0), &HostState::default()), None);
    }
}
