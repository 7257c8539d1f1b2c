//! What `lab chaos` is made of, without IPVS: hosts without power, unplugged cables, steady requests, connections that stay
//! open, applications that end.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lvsprov::check;
use lvsprov::lab::clients::{self, ClientRequest, SteadyRequests, SteadyStream, Talk};
use lvsprov::lab::network::Management;
use lvsprov::lab::responders::{self, Endpoint};
use lvsprov::lab::{self, Lab};
use lvsprov::state::Protocol;
use lvsprov::topology::Topology;

use super::{IMPATIENCE, PATIENCE, TOPOLOGY, WEB1, WEB2, ask, host};
use crate::support::cases::{Case, cases};
use crate::support::speed;

pub fn cases() -> Vec<Case> {
    cases![
        an_open_connection_outlives_an_unplugged_cable_and_ends_with_its_application,
        a_host_without_power_is_silent_and_comes_back_bare,
        steady_requests_go_on_while_none_is_answered
    ]
}

fn build() -> (Topology, Lab, tokio::runtime::Runtime) {
    lab::isolate().unwrap();
    let topology = check::examine("deaths", TOPOLOGY).topology.unwrap();
    let lab = Lab::build(&topology, Management::None).unwrap();
    (topology, lab, tokio::runtime::Runtime::new().unwrap())
}

fn web(name: &str) -> Endpoint {
    Endpoint { host: host(name), protocol: Protocol::Tcp, port: 80 }
}

async fn talks(lab: &Lab, to: SocketAddr) -> Vec<Talk> {
    clients::open_talks(lab, &host("client"), to, 2, PATIENCE).await.unwrap().unwrap()
}

fn an_open_connection_outlives_an_unplugged_cable_and_ends_with_its_application() {
    let (topology, lab, runtime) = build();
    runtime.block_on(async {
        let mut responders = responders::start(&lab, &topology).await.unwrap();
        let mut open = talks(&lab, (WEB1, 80).into()).await;
        let mut other = talks(&lab, (WEB2, 80).into()).await;
        assert!(open.iter().all(|talk| talk.server == "web1"));
        let eth0 = "eth0".parse().unwrap();
        lab.unplug(&topology, &host("web1"), &eth0).unwrap();
        assert!(ask(&lab, WEB1, 80, Protocol::Tcp, IMPATIENCE).await.answers.is_empty());
        lab.plug_in(&topology, &host("web1"), &eth0).unwrap();
        assert!(open[0].works(PATIENCE).await && open[0].works(PATIENCE).await);

        responders.stop_at(&web("web1")).await;
        assert!(!open[0].works(PATIENCE).await && !open[1].works(PATIENCE).await);
        assert!(
            ask(&lab, WEB1, 80, Protocol::Tcp, PATIENCE).await.failures.contains_key("refused")
        );
        assert!(other[0].works(PATIENCE).await, "only one application has ended");
        responders.start_again(&lab, BTreeSet::from([web("web1")])).await.unwrap();
        let now = ask(&lab, WEB1, 80, Protocol::Tcp, PATIENCE).await;
        assert_eq!(now.answers.keys().collect::<Vec<_>>(), ["web1"]);
        let unknown = lab.unplug(&topology, &host("web1"), &"eth9".parse().unwrap());
        assert!(unknown.unwrap_err().to_string().contains("eth9 of web1 has no cable in the lab"));
    });
}

fn a_host_without_power_is_silent_and_comes_back_bare() {
    let (topology, mut lab, runtime) = build();
    runtime.block_on(async {
        let mut responders = responders::start(&lab, &topology).await.unwrap();
        assert_eq!(ask(&lab, WEB1, 80, Protocol::Tcp, PATIENCE).await.failures.len(), 0);
        lab.run_in(&host("web1"), || std::fs::write(FORWARDING, "1").unwrap()).unwrap();
        let mut open = talks(&lab, (WEB1, 80).into()).await;

        lab.power_off(&topology, &host("web1")).unwrap();
        responders.stop(&host("web1")).await;
        assert!(ask(&lab, WEB1, 80, Protocol::Tcp, IMPATIENCE).await.answers.is_empty());
        // It sent no farewell: the client does not know yet.
        assert!(!open[0].works(speed::scaled(IMPATIENCE)).await);
        lab.power_on(&topology, &host("web1")).unwrap();
        let forwarding = || std::fs::read_to_string(FORWARDING).unwrap();
        assert_eq!(lab.run_in(&host("web1"), forwarding).unwrap(), "0\n");
        responders.start_again(&lab, BTreeSet::from([web("web1")])).await.unwrap();
        assert_eq!(ask(&lab, WEB1, 80, Protocol::Tcp, PATIENCE).await.failures.len(), 0);
    });
}

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

fn steady_requests_go_on_while_none_is_answered() {
    let (topology, lab, runtime) = build();
    runtime.block_on(async {
        let mut responders = responders::start(&lab, &topology).await.unwrap();
        let patience = speed::scaled(Duration::from_secs(2));
        let request = ClientRequest {
            from: None,
            target: (WEB1, 80).into(),
            protocol: Protocol::Tcp,
            patience,
        };
        let requests = SteadyRequests { request, every: Duration::from_millis(20) };
        let stream = SteadyStream::start(&lab, &host("client"), requests).await.unwrap();
        let answers = |stream: &SteadyStream| {
            stream.so_far().iter().filter(|attempt| attempt.result.is_ok()).count()
        };
        super::until("some are answered", || answers(&stream) > 5).await;
        let eth0 = "eth0".parse().unwrap();
        let cut = Instant::now();
        lab.unplug(&topology, &host("web1"), &eth0).unwrap();
        let failed = |stream: &SteadyStream| {
            let all = stream.so_far();
            let failed = all.iter().filter(|it| it.started > cut && it.result.is_err());
            failed.map(|it| it.started).collect::<Vec<_>>()
        };
        super::until("several have failed", || failed(&stream).len() > 5).await;
        // The second did not wait for the end of the first.
        let began = failed(&stream);
        let (first, last) = (began.iter().min().unwrap(), began.iter().max().unwrap());
        assert!(*last - *first < patience, "{:?}", *last - *first);
        lab.plug_in(&topology, &host("web1"), &eth0).unwrap();
        let before = answers(&stream);
        super::until("it is answered again", || answers(&stream) > before + 5).await;
        responders.stop_at(&web("web1")).await;
        let all = stream.stop().await;
        assert!(all.iter().all(|it| it.ended >= it.started) && all.len() > before + 5);
    });
}
