//! Connections to the hosts in memory, and what goes wrong on them.

use futures_util::future::BoxFuture;

use super::super::session::{AgentConnection, HostConnector};
use super::*;

struct MemoryLine {
    world: World,
    host: HostName,
    id: u64,
}

impl Drop for MemoryLine {
    fn drop(&mut self) {
        self.world.inner.lock().unwrap().alive.remove(&self.id);
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
            let mut inner = self.inner.lock().unwrap();
            if !inner.hosts[&host.name].reached {
                return Err(failure("no route to host"));
            }
            inner.next += 1;
            let id = inner.next;
            inner.alive.insert(id);
            let line = MemoryLine { world: self.clone(), host: host.name.clone(), id };
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
                        let half = steps.len() / 2;
                        let _ = self.carry_out(request, Some(half));
                    }
                    self.die()
                }
                Some(Kind::AgentAfter) => {
                    let _ = self.carry_out(request, None);
                    self.die()
                }
                Some(Kind::AgentLate) => {
                    let mut inner = self.world.inner.lock().unwrap();
                    inner.hosts.get_mut(&self.host).unwrap().late = Some((self.id, request));
                    drop(inner);
                    self.die()
                }
                Some(Kind::HostBefore) => self.vanish(),
                Some(Kind::HostAfter) => {
                    let _ = self.carry_out(request, None);
                    self.vanish()
                }
                Some(Kind::Refusal) => match &request {
                    Request::Execute { steps, .. } => {
                        let half = steps.len() / 2;
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
    fn die(&self) -> Result<Reply, Failure> {
        self.world.inner.lock().unwrap().alive.remove(&self.id);
        Err(failure("the connection broke"))
    }

    fn vanish(&self) -> Result<Reply, Failure> {
        let mut inner = self.world.inner.lock().unwrap();
        inner.hosts.get_mut(&self.host).unwrap().reached = false;
        inner.alive.remove(&self.id);
        Err(failure("the connection broke"))
    }

    /// At most so many steps; the one behind them is refused.
    fn carry_out(&self, request: Request, at_most: Option<usize>) -> Result<Reply, Failure> {
        let mut inner = self.world.inner.lock().unwrap();
        if !inner.hosts[&self.host].reached || !inner.alive.contains(&self.id) {
            return Err(failure("the connection broke"));
        }
        Ok(inner.answer(&self.host, self.id, request, at_most))
    }
}
