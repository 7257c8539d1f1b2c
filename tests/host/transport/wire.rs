//! A stretch of network between ssh and sshd that a test can cut or clog.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Listens on a port of its own and passes every connection on.
pub struct Wire {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    to: u16,
    /// After so many bytes towards the host, in all, the wire breaks or clogs.
    after: AtomicU64,
    clogs: AtomicBool,
    carried: AtomicU64,
    /// So many more connections are closed at once.
    turned_away: AtomicU64,
    ends: Mutex<Vec<TcpStream>>,
}

impl Wire {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            to: port,
            after: AtomicU64::new(u64::MAX),
            clogs: AtomicBool::new(false),
            carried: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
            ends: Mutex::new(Vec::new()),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                shared.pass(stream.unwrap());
            }
        });
        Self { port: own, state }
    }

    /// How many bytes went towards the host.
    pub fn carried(&self) -> u64 {
        self.state.carried.load(Ordering::SeqCst)
    }

    /// From `after` bytes on nothing passes any more: the connection is reset, or hangs.
    pub fn end(&self, after: u64, clogs: bool) {
        self.state.clogs.store(clogs, Ordering::SeqCst);
        self.state.after.store(after, Ordering::SeqCst);
    }

    /// Closes the next `count` connections without a word, as an sshd with MaxStartups does.
    pub fn turn_away(&self, count: u64) {
        self.state.turned_away.store(count, Ordering::SeqCst);
    }

    /// Cuts what is connected now.
    pub fn cut(&self) {
        for end in self.state.ends.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Undoes `end` for connections yet to come.
    pub fn mend(&self) {
        self.end(u64::MAX, false);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.cut();
    }
}

impl State {
    fn pass(self: &Arc<Self>, near: TcpStream) {
        let fewer = |left: u64| left.checked_sub(1);
        if self.turned_away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok() {
            return;
        }
        let Ok(far) = TcpStream::connect(("127.0.0.1", self.to)) else { return };
        let mut ends = self.ends.lock().unwrap();
        ends.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
        let (near2, far2) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        let (one, two) = (Arc::clone(self), Arc::clone(self));
        thread::spawn(move || one.carry(near, far, true));
        thread::spawn(move || two.carry(far2, near2, false));
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream, out: bool) {
        let mut piece = [0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            if self.carried.load(Ordering::SeqCst) >= self.after.load(Ordering::SeqCst) {
                if self.clogs.load(Ordering::SeqCst) {
                    // Holds both ends open and says nothing, until the test ends.
                    loop {
                        thread::park();
                    }
                }
                break;
            }
            if out {
                self.carried.fetch_add(count as u64, Ordering::SeqCst);
            }
            if to.write_all(&piece[..count]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
