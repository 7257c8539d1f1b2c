//! Large tables: the sizes that `benches/bulk.rs` measures, here for what comes out.

use lvsprov::kernel::ipvs::Table;
use lvsprov::state::{Destination, DestinationKey, ForwardingMethod, ServiceKey, VirtualService};

use super::laws::{change, only_what_differs};
use crate::support::ipvsadm::{expected, shown};
use crate::support::netns_host::NetnsHost;

fn table(services: u16, servers: u8) -> Table {
    let service = |nth: u16| {
        let port = 1000 + nth;
        let key: ServiceKey = format!("tcp 192.0.2.1:{port}").parse().unwrap();
        let mut service = VirtualService::plain(&key, "wrr");
        for server in 1..=servers {
            let rip = DestinationKey::new([198, 51, 100, server].into(), port);
            let destination = Destination::plain(ForwardingMethod::DirectRoute, u32::from(server));
            service.destinations.insert(rip, destination);
        }
        (key, service)
    };
    (0..services).map(service).collect()
}

/// Loaded, nothing to do, one of a hundred real servers changed, and all of it away.
pub fn large_tables() {
    for (services, servers) in [(1000, 10), (100, 100)] {
        let netns = NetnsHost::with_lo();
        let first = table(services, servers);
        let (_, changes, after) = change(&netns, &first);
        assert_eq!(changes.len(), usize::from(services) * (1 + usize::from(servers)));
        assert!(after.state.services == first, "{services} x {servers}: read back otherwise");
        assert!(shown(&netns) == expected(&first), "{services} x {servers}: ipvsadm differs");
        let (_, changes, _) = change(&netns, &first);
        assert_eq!(changes, []);

        let mut second = first.clone();
        let all = second.values_mut().flat_map(|service| service.destinations.values_mut());
        all.step_by(100).for_each(|destination| destination.weight = 1000);
        let (_, changes, after) = change(&netns, &second);
        assert_eq!(changes.len(), usize::from(services) * usize::from(servers) / 100);
        assert!(changes.iter().all(|change| change.changed::<Destination>().is_some()));
        only_what_differs(&changes, &first, &second);
        assert!(after.state.services == second, "{services} x {servers}: changed otherwise");

        let (_, _, after) = change(&netns, &Table::new());
        assert!(after.state.services.is_empty() && shown(&netns).is_empty());
    }
}
