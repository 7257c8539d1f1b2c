//! Which share of new connections each real server of a service gets, as its scheduler decides.

use serde::Serialize;

use crate::topology::{RealServer, Scheduler, Service};

/// The real servers of a service.
#[derive(Debug, Serialize)]
pub struct ServiceShares {
    /// Its name.
    pub name: String,
    /// Scheduler, and what makes shares other than these.
    pub scheduler: String,
    /// Drain, ramp and persistence, as far as there are any.
    pub timings: Vec<String>,
    /// In the order of the file.
    pub real_servers: Vec<Share>,
}

/// One real server.
#[derive(Debug, Serialize)]
pub struct Share {
    /// Its host.
    pub host: String,
    /// Address and port.
    pub address: String,
    /// Forwarding method.
    pub method: String,
    /// Its weight.
    pub weight: u32,
    /// Percent of new connections; `None`: the scheduler does not decide by weights alone.
    pub percent: Option<u32>,
}

/// How a scheduler chooses, as far as shares go (net/netfilter/ipvs/ip_vs_*.c).
enum Choice {
    /// Every real server with a weight above 0 alike.
    Alike,
    /// In proportion to the weights, in the long run.
    ByWeight,
    /// Something else.
    Other(&'static str),
}

fn choice(scheduler: Scheduler) -> Choice {
    match scheduler {
        Scheduler::Rr => Choice::Alike,
        Scheduler::Wrr | Scheduler::Mh | Scheduler::Sh => Choice::ByWeight,
        Scheduler::Lc => Choice::Other("the one with the fewest connections gets the next one"),
        Scheduler::Wlc | Scheduler::Sed | Scheduler::Nq | Scheduler::Twos => {
            Choice::Other("connections are balanced in proportion to the weights")
        }
        Scheduler::Dh | Scheduler::Lblc | Scheduler::Lblcr => {
            Choice::Other("the address that is asked decides: with one VIP, mostly one real server")
        }
        Scheduler::Fo => Choice::Other("the one with the largest weight gets all"),
        Scheduler::Ovf => Choice::Other("the one with the largest weight, until it is full"),
    }
}

impl ServiceShares {
    /// Of `service`, with drain and ramp as they apply.
    pub fn new(service: &Service, drain: u32, ramp: u32) -> Self {
        let choice = choice(service.scheduler);
        let by_weight = |it: &RealServer| match choice {
            Choice::Alike => u64::from(it.weight > 0),
            Choice::ByWeight => u64::from(it.weight),
            Choice::Other(_) => 0,
        };
        let sum: u64 = service.real_servers.iter().map(by_weight).sum();
        let share = |it: &RealServer| Share {
            host: it.host.to_string(),
            address: std::net::SocketAddr::new(it.rip, it.port).to_string(),
            method: it.forward.to_string(),
            weight: it.weight,
            percent: (100 * by_weight(it) + sum / 2)
                .checked_div(sum)
                .and_then(|percent| u32::try_from(percent).ok()),
        };
        let mut timings = Vec::new();
        if drain > 0 {
            timings.push(format!("drain up to {drain} s before a real server is removed"));
        }
        if ramp > 0 {
            timings.push(format!("ramp over {ramp} s for a new real server"));
        }
        if let Some(persistence) = &service.persistence {
            timings
                .push(format!("a client stays with its real server for {} s", persistence.timeout));
        }
        let how = match choice {
            Choice::Other(how) => format!("{}: {how}", service.scheduler),
            Choice::Alike | Choice::ByWeight => service.scheduler.to_string(),
        };
        Self {
            name: service.display_name(),
            scheduler: how,
            timings,
            real_servers: service.real_servers.iter().map(share).collect(),
        }
    }
}
