//! Connections to the hosts in memory, and what goes wrong on them.

use futures_util::future::BoxFuture;

use super::super::session::{AgentConnection, HostConnector};
use super::*;
use crate::protocol::SegmentAnswers;

struct MemoryLine {
    world: World,
    host: HostName,
    process: MemoryProcess,
    /// `None` once the connection broke.
    agent: Option<Agent>,
}

impl Drop for MemoryLine {
    fn drop(&mut self) {
        self.process.end();
    }
}

impl HostConnector for World {
    fn reaches(&self, _: &Host) -> bool {
        true
    }

    fn connect<'d>(
        &'d self,
        host: &'d Host,
        _: bool,
    ) -> BoxFuture<'d, Result<Box<dyn AgentConnection>, Failure>> {
        Box::pin(async move {
            let inner = self.inner.lock().unwrap();
            let there = &inner.hosts[&host.name];
            if !there.reached {
                return Err(failure("no route to host"));
            }
            let process = there.memory.start();
            let agent = Some(process.agent());
            let line = MemoryLine { world: self.clone(), host: host.name.clone(), process, agent };
            Ok(Box::new(line) as Box<dyn AgentConnection>)
        })
    }
}

impl AgentConnection for MemoryLine {
    fn ask(&mut self, request: Request) -> BoxFuture<'_, Result<Reply, Failure>> {
        Box::pin(async move {
            let kind = self.world.inner.lock().unwrap().fault_of(&request);
            let kills = self.world.inner.lock().unwrap().serves == Serves::Kills;
            let kind = match request {
                Request::Fetch { .. } if kills => Some(Kind::ControllerAfter),
                _ => kind,
            };
            match kind {
                None => self.carry_out(request, None),
                Some(Kind::AgentBefore) => self.die(),
                Some(Kind::AgentHalfway) => {
                    if let Request::Execute { steps, .. } = &request {
                        let half = StepFault::Killed(steps.len() / 2);
                        let _ = self.carry_out(request, Some(half));
                    }
                    self.die()
                }
                Some(Kind::AgentAfter) => {
                    let _ = self.carry_out(request, None);
                    self.die()
                }
                Some(Kind::AgentLate) => {
                    if let Some(agent) = self.agent.take() {
                        let late = Some((self.process.clone(), agent, request));
                        let mut inner = self.world.inner.lock().unwrap();
                        inner.hosts.get_mut(&self.host).unwrap().late = late;
                        drop(inner);
                    }
                    self.process.end();
                    Err(failure("the connection broke"))
                }
                Some(Kind::HostBefore) => self.vanish(),
                Some(Kind::HostAfter) => {
                    let _ = self.carry_out(request, None);
                    self.vanish()
                }
                Some(Kind::Refusal) => match &request {
                    Request::Execute { steps, .. } => {
                        let half = StepFault::Refused(steps.len() / 2);
                        self.carry_out(request, Some(half))
                    }
                    _ => Ok(Reply::Refused(failure("the disk is full"))),
                },
                Some(Kind::ControllerBefore) => {
                    self.world.killed.notify_one();
                    std::future::pending().await
                }
                Some(Kind::ControllerAfter) => {
                    let _ = self.carry_out(request, None);
                    self.world.killed.notify_one();
                    std::future::pending().await
                }
            }
        })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        drop(self);
        Box::pin(async {})
    }
}

impl MemoryLine {
    /// The agent is killed.
    fn die(&mut self) -> Result<Reply, Failure> {
        self.agent = None;
        self.process.end();
        Err(failure("the connection broke"))
    }

    /// The host is not reached any more.
    fn vanish(&mut self) -> Result<Reply, Failure> {
        self.world.inner.lock().unwrap().hosts.get_mut(&self.host).unwrap().reached = false;
        self.die()
    }

    /// The host goes down with all of its processes, and comes up again.
    fn reboot(&mut self) {
        self.process.die();
        let mut inner = self.world.inner.lock().unwrap();
        inner.reboots.push(self.host.clone());
        let comeback = inner.comeback;
        let there = inner.hosts.get_mut(&self.host).unwrap();
        there.memory.reboot(comeback == Comeback::Settled);
        there.reached = comeback != Comeback::Never;
    }

    fn carry_out(&mut self, request: Request, fault: Option<StepFault>) -> Result<Reply, Failure> {
        let world = self.world.clone();
        let mut inner = world.inner.lock().unwrap();
        let reached = inner.hosts[&self.host].reached;
        let Some(agent) = self.agent.as_mut().filter(|_| reached && !self.process.is_dead()) else {
            return Err(failure("the connection broke"));
        };
        match request {
            Request::WhoHas { target, .. } => return Ok(Reply::Answered(inner.who_has(target))),
            Request::FindHolders { addresses, .. } => {
                let answers = addresses.into_iter();
                let answers = answers.map(|key| {
                    let macs = inner.who_has(key.net.addr());
                    (key, macs)
                });
                let answers = answers.collect();
                return Ok(Reply::Holders(SegmentAnswers { answers, ..SegmentAnswers::default() }));
            }
            Request::Fetch { count, .. } => {
                inner.fetched += count;
                return Ok(inner.serves.fetch(count));
            }
            _ => {}
        }
        inner.hosts[&self.host].memory.set_step_fault(fault);
        let reply = inner.answer(&self.host, agent, request);
        inner.hosts[&self.host].memory.set_step_fault(None);
        drop(inner);
        if reply == Reply::Rebooting {
            self.reboot();
        }
        if self.process.is_dead() {
            return self.die();
        }
        Ok(reply)
    }
}
