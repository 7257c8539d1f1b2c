//! Fuzz targets for decoders of the kernel's answers and of packets. Private decoders have their target in
//! their own module: `fuzz_ipvs`, `fuzz_nft`, `fuzz_iptables`, `fuzz_fou`, `fuzz_rtnetlink`, `fuzz_ndp`.
#![allow(clippy::unwrap_used)]

use super::arp::ArpFrame;
use super::generic;
use super::wire::{self, AttributeList};
use crate::support::fuzz;

#[test]
fn fuzz_generic() {
    let mut answer = AttributeList::default();
    answer.put_u16(1, 30);
    answer.put_text(2, "IPVS");
    let body = answer.into_bytes();
    let frames = [wire::frame(16, 2, 7, 1, 2, &body), wire::frame(wire::ERROR, 0, 7, 0, 0, &body)];
    let seeds = [body].into_iter().chain(frames).collect();
    fuzz::target!("fuzz_generic", 10_000, seeds, |bytes| {
        let _ = generic::family_of(bytes);
        let mut taken = 0;
        for message in wire::messages(bytes).flatten() {
            let _ = (message.errno(), message.family());
            if let Ok((_, body)) = message.generic() {
                taken += body.len();
                let _ = generic::family_of(body);
            }
        }
        assert!(taken <= bytes.len());
    });
}

#[test]
fn fuzz_arp() {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1]);
    frame.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    assert!(ArpFrame::parse(&frame, false).is_some());
    fuzz::target!("fuzz_arp", 10_000, vec![frame.clone()], |bytes| {
        let _ = ArpFrame::parse(bytes, bytes.len() % 2 == 0);
    });
}
