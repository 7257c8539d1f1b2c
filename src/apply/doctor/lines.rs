//! The evidence in words: a line each. Pure.

use super::evidence::{CounterRise, Evidence, Instruments, KernelLookup, RealRequests, RequestWay};
use crate::names::HostName;
use crate::state::examination::RouteAnswer;
use crate::walk::{Cause, Death};

impl Evidence {
    pub(super) fn asks(&self) -> String {
        format!("{} -> {}", self.client, self.service_name)
    }

    pub(super) fn by(&self, way: &RequestWay) -> String {
        format!("{} by {}", self.asks(), way.real_server)
    }

    /// What real requests showed, in a line.
    pub(super) fn answers(&self) -> String {
        match (&self.probe, self.counts()) {
            (RealRequests::NotSent(why), _) => format!("no request was sent: {why}"),
            (RealRequests::Sent(fetched), counts) => {
                let (answered, failed) = counts.unwrap_or_default();
                let reasons = fetched.failures.iter().map(|(why, count)| format!("{count} {why}"));
                let reasons: Vec<String> = reasons.collect();
                let all = answered + failed;
                if reasons.is_empty() {
                    format!("{answered} of {all} requests answered")
                } else {
                    format!("{answered} of {all} requests answered; {}", reasons.join(", "))
                }
            }
        }
    }
}

/// What the kernels say about a death.
pub(super) fn corroboration(instruments: &Instruments, death: &Death) -> Vec<String> {
    let inner = death.innermost();
    let at = |host: &HostName| *host == death.host || *host == inner.host;
    let mut lines: Vec<String> = Vec::new();
    for lookup in instruments.lookups.iter().filter(|it| at(&it.host) && !it.passes) {
        lines.push(kernel_line(lookup));
    }
    lines.extend(instruments.rises.iter().filter(|it| at(&it.host)).map(rise_line));
    lines.extend(drop_lines(instruments));
    if matches!(death.cause, Cause::NobodyAnswers { .. }) {
        lines.push(
            "a question by ARP that no host answers is no drop to any kernel: no counter shows it"
                .to_owned(),
        );
    }
    if let Some(why) = instruments.failures.get(&inner.host) {
        lines.push(format!("the kernel of {} was not asked: {why}", inner.host));
    }
    lines
}

pub(super) fn kernel_line(lookup: &KernelLookup) -> String {
    let KernelLookup { host, question, passes, answer } = lookup;
    let answer = match answer {
        RouteAnswer::Local => "it takes the packet as its own".to_owned(),
        RouteAnswer::Sent { dev, gateway } => {
            let dev = dev.as_ref().map(|dev| format!(" by {dev}")).unwrap_or_default();
            let gateway = gateway.map(|it| format!(" to {it}")).unwrap_or_default();
            format!("it sends the packet on{dev}{gateway}")
        }
        RouteAnswer::Refused(refusal) => refusal.to_string(),
        RouteAnswer::NotAsked(failure) => format!("not asked: {failure}"),
    };
    let agrees = match (lookup.refuses(), passes) {
        (Some(true), false) => "the kernel agrees",
        (Some(false), false) => "the kernel does not agree",
        _ => "the kernel",
    };
    format!("{agrees}: on {host} `{question}`: {answer}")
}

impl KernelLookup {
    /// Whether the kernel would drop the packet; `None`: it was not asked.
    pub(super) fn refuses(&self) -> Option<bool> {
        match self.answer {
            RouteAnswer::Local | RouteAnswer::Sent { .. } => Some(false),
            RouteAnswer::Refused(_) => Some(true),
            RouteAnswer::NotAsked(_) => None,
        }
    }
}

/// What drop monitors name.
pub(super) fn drop_lines(instruments: &Instruments) -> impl Iterator<Item = String> {
    let all = instruments.drops.iter();
    all.flat_map(|(host, drops)| {
        drops.iter().map(move |drop| format!("the kernel of {host}: {drop}"))
    })
}

pub(super) fn rise_line(rise: &CounterRise) -> String {
    let CounterRise { host, counter, before, during } = rise;
    format!(
        "on {host} {} rose by {during} during the requests (by {before} before)",
        counter.name()
    )
}

impl Evidence {
    pub(super) fn rises_on<'e>(&'e self, host: &'e HostName) -> impl Iterator<Item = String> + 'e {
        let rises = self.instruments.iter().flat_map(|it| &it.rises);
        rises.filter(move |rise| rise.host == *host).map(rise_line)
    }
}
