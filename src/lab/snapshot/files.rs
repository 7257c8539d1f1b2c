//! The settings under /proc/sys/net and the table of IPVS, of the calling thread's namespace.

use std::fs;
use std::path::Path;

use super::{Snapshot, add};

const ROOTS: [&str; 2] = ["net/ipv4", "net/ipv6"];
/// Secret keys: the kernel chooses random values by default
/// (net/ipv4/sysctl_net_ipv4.c, net/ipv6/addrconf.c).
const SECRET: [&str; 2] = ["tcp_fastopen_key", "stable_secret"];

/// Every readable setting (`route/flush`, for example, is write-only).
pub(super) fn settings(snapshot: &mut Snapshot) {
    for root in ROOTS {
        walk(root, snapshot);
    }
}

fn walk(folder: &str, snapshot: &mut Snapshot) {
    let Ok(entries) = fs::read_dir(Path::new("/proc/sys").join(folder)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{folder}/{name}");
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, snapshot);
        } else if !SECRET.contains(&name.as_str())
            && let Ok(value) = fs::read(entry.path())
        {
            let value = String::from_utf8_lossy(&value);
            // Lists have tabs between their numbers.
            let value: Vec<&str> = value.split_ascii_whitespace().collect();
            snapshot.insert(path, value.join(" "));
        }
    }
}

/// The IPVS table; nothing without IPVS.
pub(super) fn ipvs(snapshot: &mut Snapshot) {
    if let Ok(table) = fs::read_to_string("/proc/thread-self/net/ip_vs") {
        read_table(&table, snapshot);
    }
}

/// Reads the table as `ip_vs_info_seq_show` writes it (net/netfilter/ipvs/ip_vs_ctl.c): three heading
/// lines; a line for each service, followed by a line with an arrow for each destination: address,
/// method, weight and two connection counts, which are left out.
fn read_table(table: &str, snapshot: &mut Snapshot) {
    let mut service: Option<(String, String, Vec<String>)> = None;
    let headings = 3;
    for line in table.lines().skip(headings) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["->", address, method, weight, ..] => {
                if let Some((_, _, destinations)) = &mut service {
                    destinations.push(format!("{address} {method} {weight}"));
                }
            }
            [kind, address, how @ ..] => {
                put(service.take(), snapshot);
                service = Some((format!("ipvs {kind} {address}"), how.join(" "), Vec::new()));
            }
            _ => {}
        }
    }
    put(service, snapshot);
}

fn put(service: Option<(String, String, Vec<String>)>, snapshot: &mut Snapshot) {
    if let Some((name, how, mut destinations)) = service {
        // The kernel lists them newest first.
        destinations.sort();
        add(snapshot, name, format!("{how} [{}]", destinations.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  AC1907C8:0050 rr persistent 300 FFFFFFFF
  -> AC190704:0050      Route   2      7          3
  -> AC190703:0050      Route   1      0          9
FWM  00000001 wlc
";

    #[test]
    fn the_ipvs_table_has_no_counters() {
        let mut snapshot = Snapshot::new();
        read_table(TABLE, &mut snapshot);
        let expected = [
            ("ipvs FWM 00000001", "wlc []"),
            (
                "ipvs TCP AC1907C8:0050",
                "rr persistent 300 FFFFFFFF [AC190703:0050 Route 1, AC190704:0050 Route 2]",
            ),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(snapshot, Snapshot::from(expected));
    }

    #[test]
    fn an_empty_table_and_no_table_are_the_same() {
        let mut snapshot = Snapshot::new();
        read_table(TABLE.split_once("TCP").map_or("", |(headings, _)| headings), &mut snapshot);
        read_table("", &mut snapshot);
        assert!(snapshot.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String) {
            read_table(&text, &mut Snapshot::new());
        }
    }
}
