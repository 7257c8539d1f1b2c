//! The drop monitor, in the machine's own network namespace: it exists in no other.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use lvsprov::kernel::drop_monitor::watch;

/// Addresses of lo that nothing else uses.
const SENDER: Ipv4Addr = Ipv4Addr::new(127, 0, 7, 1);
const TARGET: Ipv4Addr = Ipv4Addr::new(127, 0, 7, 2);

fn nft(rules: &str) {
    for rule in rules.lines() {
        let status = Command::new("nft").arg(rule).status().unwrap();
        assert!(status.success(), "nft {rule}");
    }
}

pub fn a_drop_is_named() {
    nft("add table inet drops
add chain inet drops in { type filter hook input priority 0; }
add rule inet drops in ip daddr 127.0.7.2 udp dport 4444 drop");
    let addresses: BTreeSet<IpAddr> = [SENDER.into(), TARGET.into()].into();
    let (done, stopped) = mpsc::channel::<()>();
    let sender = thread::spawn(move || {
        let socket = UdpSocket::bind((SENDER, 0)).unwrap();
        let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // Until it is over: nothing shows when the monitor begins.
        while stopped.recv_timeout(Duration::from_millis(50))
            == Err(mpsc::RecvTimeoutError::Timeout)
        {
            // The firewall swallows it, or refuses it: both are not ours to judge.
            let _ = socket.send_to(b"lvsprov", (TARGET, 4444));
            let _ = other.send_to(b"lvsprov", (TARGET, 4444));
        }
    });
    let found = watch(&addresses, Duration::from_secs(2));
    // Another program's turn: refused, and it says why. It was stopped, and starts again.
    let again = thread::scope(|scope| {
        let first = scope.spawn(|| watch(&addresses, Duration::from_secs(2)));
        let refused = (0..200).find_map(|_| {
            thread::sleep(Duration::from_millis(5));
            watch(&addresses, Duration::from_millis(1)).err()
        });
        (first.join().unwrap(), refused)
    });
    done.send(()).unwrap();
    sender.join().unwrap();
    nft("delete table inet drops");
    let found = found.unwrap();
    assert_eq!(found.len(), 1, "only packets between both addresses: {found:?}");
    let drop = &found[0];
    assert_eq!((drop.source, drop.target), (SENDER.into(), TARGET.into()));
    assert!(drop.count >= 5, "{drop:?}");
    assert_eq!(drop.dev.as_deref(), Some("lo"), "{drop:?}");
    // nf_tables itself, or on older kernels the hook that asks it.
    assert!(["nft_do_chain", "nf_hook_slow"].contains(&drop.function.as_str()), "{drop:?}");
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let expected = (!release.starts_with("5.")).then_some("NETFILTER_DROP");
    assert_eq!(drop.reason.as_deref(), expected, "{drop:?}");
    let (first, refused) = again;
    // Which of both comes first is chance; one of them was refused.
    let refused = refused.or_else(|| first.err()).expect("two watch at once");
    let cure = refused.to_failure().cure.unwrap_or_default();
    assert!(cure.contains("another program watches drops"), "{refused}");
}
