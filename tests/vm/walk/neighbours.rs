//! Makes hosts forget their neighbours, as `ip neigh flush all` does: a walk's trial does it for every host, and to start
//! `ip` for each takes an emulated machine longer than the requests.

use futures_util::TryStreamExt as _;
use lvsprov::lab::Lab;
use netlink_packet_route::neighbour::NeighbourState;

/// A neighbour that is known is not asked for: what ARP would say now shows only without.
pub fn forget(lab: &Lab) {
    for host in lab.host_names() {
        lab.run_in(host, || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(flush());
        })
        .unwrap();
    }
}

async fn flush() {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    let connection = tokio::spawn(connection);
    let known: Vec<_> = handle.neighbours().get().execute().try_collect().await.unwrap();
    for neighbour in known {
        // The kernel's own entries, for broadcast and multicast, were not answered by a host.
        if !matches!(neighbour.header.state, NeighbourState::Noarp | NeighbourState::Permanent) {
            match handle.neighbours().del(neighbour).execute().await {
                // The kernel has dropped it meanwhile.
                Err(rtnetlink::Error::NetlinkError(error))
                    if error.raw_code() == -nix::libc::ENOENT => {}
                other => other.unwrap(),
            }
        }
    }
    connection.abort();
}
