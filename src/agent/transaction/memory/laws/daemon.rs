//! A daemon with a configuration that its program takes, and one that it refuses.

use super::*;
use crate::state::DaemonConfiguration;

fn start(text: &str) -> Vec<Step> {
    let key = "keepalived of t".parse().unwrap();
    let edit = Edit::add::<DaemonConfiguration>(key, DaemonConfiguration::of(text));
    vec![Step { edit, why: String::new() }]
}

/// The steps that start one.
pub(super) fn starts() -> Vec<Step> {
    start("virtual_server 192.0.2.1 80 {\n}\n")
}

#[test]
fn a_configuration_that_the_program_refuses_is_not_prepared() {
    let mut bench = Bench::new();
    let prepare = |steps| Act::Prepare { number: 1, steps, keeps: true };
    let Some(Reply::Refused(failure)) = bench.act(&prepare(start(REFUSED_LINE))) else {
        panic!("prepared");
    };
    assert!(failure.message.contains("the program refuses it"), "{failure}");
    let view = bench.view();
    assert!(view.open.is_none() && view.observation.receipt.is_none());
    assert!(
        bench.host.files().keys().all(|path| !path.contains("/t/")),
        "{:?}",
        bench.host.files()
    );
    bench.must(&prepare(starts()), "the same with a text that it takes");
    bench.must(&Act::Execute { number: 1, steps: starts() }, "it starts");
    assert_eq!(bench.host.kernel().state.instances.len(), 1);
}
