#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::desired::desired_for;
use crate::protocol::Reply;
use crate::state::{Capability, HostFacts, Observation};
use crate::support::Cluster;
use crate::topology::Forward;
use crate::visible::visible;

fn frame_of(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&length[..], body].concat()
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn decoded<T: DeserializeOwned + Send + 'static>(frame: &[u8]) -> Result<Option<T>, FrameError> {
    wait(read(&mut &*frame, &mut MemoryShare::default()))
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[\\x00-\\x1f\\x7f-\\u{9f}\\u{202e}\\u{e0041}\\\\\"/]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            (any::<String>(), inner).prop_map(|(key, value)| json!({ key: value })),
        ]
    })
}

/// What should come of a value: every text in it made visible.
fn shown(value: &Value) -> Value {
    match value {
        Value::String(text) => visible(text).into(),
        Value::Array(all) => all.iter().map(shown).collect(),
        Value::Object(members) => {
            members.iter().map(|(key, value)| (visible(key).into_owned(), shown(value))).collect()
        }
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn every_text_is_made_visible_and_nothing_else_changes(value in value(), pretty in any::<bool>()) {
        let body = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) };
        prop_assert_eq!(decoded::<Value>(&frame_of(&body.unwrap())).unwrap().unwrap(), shown(&value));
    }

    #[test]
    fn no_bytes_panic_and_what_is_no_json_is_none_afterwards(body in prop::collection::vec(any::<u8>(), 0..80)) {
        let was = serde_json::from_slice::<Value>(&body).is_ok();
        prop_assert_eq!(decoded::<Value>(&frame_of(&body)).is_ok(), was);
    }

    #[test]
    fn nearly_json_never_panics(body in "[\\[\\]{}\",:\\\\u0-9a-fdDnrbt\u{202e}\u{7f}é\n ]{0,40}") {
        let was = serde_json::from_str::<Value>(&body).is_ok();
        prop_assert_eq!(decoded::<Value>(&frame_of(body.as_bytes())).is_ok(), was);
    }

    #[test]
    fn cut_anywhere_it_is_an_error_and_never_an_answer(value in value(), cut in any::<prop::sample::Index>()) {
        let frame = frame_of(&serde_json::to_vec(&value).unwrap());
        let cut = 1 + cut.index(frame.len() - 1);
        let truncated = matches!(decoded::<Value>(&frame[..cut]), Err(FrameError::Truncated { .. }));
        prop_assert!(truncated);
        prop_assert!(decoded::<Value>(&[]).unwrap().is_none());
    }
}

#[test]
fn however_it_is_written_it_is_seen() {
    let body =
        r#"{"refused":{"message":"\u001b]52;c;aGk=\u0007 failed\rverified","causes":["\ud83d\ude00
\udb40\udc41"],"cure":null}}"#
            .replace('\n', "\u{202e}\u{7f}\\n\u{9b}2J");
    let Some(Reply::Refused(failure)) = decoded(&frame_of(body.as_bytes())).unwrap() else {
        panic!("it is a refusal")
    };
    assert_eq!(failure.message, "\\x1b]52;c;aGk=\\x07 failed\\rverified");
    assert_eq!(failure.causes, ["\u{1f600}\\u{202e}\\x7f\\n\\x9b2J\\u{e0041}"]);
}

/// A host with so many services of ten real servers.
fn large(services: u16) -> Reply {
    let ports = (0..services).map(|nth| (Forward::Dr, 1000 + nth, (1..=10).collect()));
    let topology = Cluster::of(&ports.collect::<Vec<_>>()).topology;
    let state = desired_for(&topology, &topology.hosts[&"director".parse().unwrap()]).state;
    let modules = [(crate::state::Module::IpVs, Capability::Present)].into();
    let facts = HostFacts { modules, ..HostFacts::default() };
    Reply::Observed(Box::new(Observation { facts, state, ..Observation::default() }))
}

#[test]
fn a_large_honest_answer_is_taken_as_it_is() {
    let reply = large(500);
    let frame = frame::encode(&reply).unwrap();
    assert!(frame.len() > SHORT);
    let body = frame[HEADER..].to_vec();
    assert!(is_plain(&body).unwrap());
    assert_eq!(screen(body.clone()).unwrap(), body);
    assert_eq!(decoded::<Reply>(&frame).unwrap().unwrap(), reply);
}

#[test]
fn more_values_than_an_agent_sends_are_refused() {
    for one in ["\"\",", "[],", "{},", "0,", "[0,"] {
        let body = format!("{{\"changed\":[{}", one.repeat(10_000_000 / one.len()));
        let error = decoded::<Reply>(&frame_of(body.as_bytes())).unwrap_err();
        let FrameError::Crowded { length, values, limit } = error else { panic!("{error:?}") };
        assert_eq!((length, values), (body.len(), limit + 1));
    }
}

#[test]
fn a_longer_text_than_an_agent_sends_is_refused() {
    let body = |length| format!("{{\"changed\":[\"{}\"]}}", "x".repeat(length));
    assert!(decoded::<Reply>(&frame_of(body(TEXT_LIMIT - 1).as_bytes())).is_ok());
    let error = decoded::<Reply>(&frame_of(body(TEXT_LIMIT).as_bytes())).unwrap_err();
    assert!(matches!(error, FrameError::LongText { .. }), "{error:?}");
}

#[test]
fn a_longer_answer_or_hello_than_an_agent_sends_is_refused_before_it_is_read() {
    for (limit, is_hello) in [(LIMIT, false), (HELLO_LIMIT, true)] {
        let mut bytes = u32::try_from(limit + 1).unwrap().to_be_bytes().to_vec();
        bytes.extend([b'x'; 32]);
        let mut stream = bytes.as_slice();
        let error = if is_hello {
            wait(hello(&mut stream)).map(drop)
        } else {
            wait(read::<Reply, _>(&mut stream, &mut MemoryShare::default())).map(drop)
        };
        assert!(matches!(error, Err(FrameError::TooLong { .. })), "{error:?}");
        assert_eq!(stream.len(), 32);
    }
}

#[test]
fn text_that_grows_beyond_the_limit_while_it_is_cleaned_is_refused() {
    let text = "\u{7f}".repeat(TEXT_LIMIT - 2);
    let body = serde_json::to_vec(&json!({ "changed": vec![text; 20] })).unwrap();
    let error = decoded::<Reply>(&frame_of(&body)).unwrap_err();
    assert!(matches!(error, FrameError::TooLong { .. }), "{error:?}");
}

/// Its own room, so that tests that run beside do not find it full.
fn room(units: usize) -> &'static Semaphore {
    Box::leak(Box::new(Semaphore::new(units)))
}

#[test]
fn all_hosts_have_one_room_and_give_back_what_they_took() {
    let room = room(300);
    let share = || MemoryShare { room, taken: None };
    let body = serde_json::to_vec(&json!({ "changed": vec!["x".repeat(100); 1000] })).unwrap();
    let frame = frame_of(&body);
    let (mut one, mut two, mut three) = (share(), share(), share());
    let take =
        |share: &mut MemoryShare| wait(read::<Reply, _>(&mut frame.as_slice(), share)).map(drop);
    take(&mut one).unwrap();
    take(&mut two).unwrap();
    let error = take(&mut three).unwrap_err();
    assert!(matches!(error, FrameError::Budget { .. }), "{error:?}");
    drop((two, three));
    take(&mut share()).unwrap();
    drop(one);
    assert_eq!(room.available_permits(), 300);
}

#[test]
fn only_what_came_takes_room() {
    let room = room(100);
    let mut share = MemoryShare { room, taken: None };
    let frame = [&u32::try_from(LIMIT).unwrap().to_be_bytes()[..], b"[1,"].concat();
    let error = wait(read::<Reply, _>(&mut frame.as_slice(), &mut share)).unwrap_err();
    assert!(matches!(error, FrameError::Truncated { got: 7, .. }), "{error:?}");
    assert!(room.available_permits() >= 36);
}

/// A waiting task is not blocked by the decoding itself: the first time it is asked, a long answer
/// is on its way to another thread.
#[test]
fn a_limit_of_time_interrupts_the_decoding() {
    let frame = frame::encode(&large(2000)).unwrap();
    let waited = wait(async {
        let (mut stream, mut share) = (frame.as_slice(), MemoryShare::default());
        tokio::time::timeout(Duration::ZERO, read::<Reply, _>(&mut stream, &mut share))
            .await
            .is_ok()
    });
    assert!(!waited, "it was decoded where others wait");
}
