//! Requests to IPVS attribute by attribute, also such as lvsprov would never send.

use std::io;

use lvsprov::kernel::ipvs::wire::{self, AttributeList};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

/// What is sent: `IPVS_CMD_*` and its attributes.
pub struct Raw {
    pub command: u8,
    pub attributes: AttributeList,
}

/// Sends `raw` to the IPVS of this thread's namespace, and says what came of it.
pub fn send(raw: Raw) -> Result<(), Errno> {
    let socket = open().unwrap();
    let mut name = AttributeList::default();
    name.put_text(2, "IPVS");
    // CTRL_CMD_GETFAMILY; its answer has the number as attribute 1.
    socket.send(&wire::frame(16, 1, 1, 3, 1, &name.into_bytes()), 0).unwrap();
    let (answer, _) = socket.recv_from_full().unwrap();
    let message = wire::messages(&answer).next().unwrap().unwrap();
    let mut attributes = wire::attributes(message.generic().unwrap().1).map(Result::unwrap);
    let (_, family) = attributes.find(|(kind, _)| *kind == 1).unwrap();
    let family = wire::read_u16(family, "family").unwrap();

    let Raw { command, attributes } = raw;
    let frame = wire::frame(family, 5, 2, command, 1, &attributes.into_bytes());
    socket.send(&frame, 0).unwrap();
    let (answer, _) = socket.recv_from_full().unwrap();
    let message = wire::messages(&answer).next().unwrap().unwrap();
    assert_eq!((message.kind, message.seq), (wire::ERROR, 2));
    match message.errno().unwrap() {
        0 => Ok(()),
        code => Err(Errno::from_raw(code)),
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}
