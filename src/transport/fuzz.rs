//! What comes over the connection, as a hostile host or a broken wire may send it.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use super::frame;
use super::greeting::{GreetingMark, MarkScanner, ScanResult};
use super::reply::{self, MemoryShare};
use crate::failure::Failure;
use crate::protocol::{Fetched, Hello, Reply, Request};
use crate::state::Observation;
use crate::support::fuzz;

fn frames() -> Vec<Vec<u8>> {
    let failure = Failure { message: "no".to_owned(), causes: vec!["x".to_owned()], cure: None };
    let counts = BTreeMap::from([("web1".to_owned(), 3)]);
    let replies = [
        Reply::Refused(failure),
        Reply::Answered(BTreeSet::from(["02:00:00:00:00:01".to_owned()])),
        Reply::Fetched(Fetched { answers: counts.clone(), failures: counts }),
        Reply::Observed(Box::<Observation>::default()),
    ];
    let topology = "dr".parse().unwrap();
    let look = Request::Observe { topology, sysctls: BTreeSet::new(), counters: true };
    let mut frames: Vec<Vec<u8>> = replies.iter().map(|r| frame::encode(r).unwrap()).collect();
    frames.push(frame::encode(&look).unwrap());
    frames.push(frames.concat());
    frames
}

#[test]
fn fuzz_frame() {
    fuzz::target!("fuzz_frame", 5000, frames(), |bytes| {
        let _ = frame::decode::<Request>(bytes);
        let _ = frame::decode::<Hello>(bytes);
        let mut stream = bytes;
        while let Ok(Some(reply)) = frame::read_blocking::<Reply>(&mut stream) {
            let again = frame::encode(&reply).unwrap();
            assert_eq!(frame::decode::<Reply>(&again).unwrap().unwrap().0, reply);
        }
    });
}

/// The controller's reader makes visible what a terminal would obey; once more it has nothing to do.
#[test]
fn fuzz_reply() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let read = |mut bytes: &[u8]| {
        runtime.block_on(reply::read::<Reply, _>(&mut bytes, &mut MemoryShare::default()))
    };
    fuzz::target!("fuzz_reply", 5000, frames(), |bytes| {
        if let Ok(Some(reply)) = read(bytes) {
            let frame = frame::encode(&reply).unwrap();
            assert_eq!(read(&frame).unwrap().unwrap(), reply);
            assert_eq!(frame::decode::<Reply>(&frame).unwrap().unwrap().0, reply);
        }
    });
}

#[test]
fn fuzz_greeting() {
    let marks = [
        GreetingMark::Hello,
        GreetingMark::NoSudo,
        GreetingMark::Have { machine: "x86_64".to_owned() },
        GreetingMark::User { uid: 0 },
        GreetingMark::Unsafe { path: "/root".to_owned() },
    ];
    let seeds = marks.iter().map(|mark| format!("Welcome\r\n{mark}").into_bytes()).collect();
    fuzz::target!("fuzz_greeting", 5000, seeds, |bytes| {
        let size = bytes.first().map_or(1, |first| usize::from(*first) + 1);
        let (mut scanner, mut taken) = (MarkScanner::default(), 0);
        for piece in bytes.chunks(size) {
            match scanner.scan(piece) {
                ScanResult::Nothing => taken += piece.len(),
                ScanResult::Mark(_, more) => return assert!(more <= piece.len()),
                ScanResult::TooMuch => return,
            }
        }
        assert_eq!(taken, bytes.len());
        let obeyed = |c: char| c != '\n' && crate::visible::is_hidden(c);
        assert!(!scanner.chatter().chars().any(obeyed));
    });
}
