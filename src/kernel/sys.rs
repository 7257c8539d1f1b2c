//! The only unsafe code: calls for AF_PACKET, network namespaces and xtables that no crate in use offers safely.
//!
//! Four calls: bind a packet socket to an interface, read its number of dropped packets, read the cookie
//! of a socket's network namespace, and read an option of a socket into bytes. All else (opening, filtering, sending, receiving) goes through `nix` and
//! `socket2`.

#![allow(unsafe_code)] // audited here, denied everywhere else

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use socket2::{SockFilter, SockRef};

/// ETH_P_ARP (include/uapi/linux/if_ether.h).
const ETH_P_ARP: u16 = 0x0806;

/// An AF_PACKET socket that receives each ARP frame of the interface, including those that this host sends, and
/// no other packet. Non-blocking; frames start with their Ethernet header.
///
/// It belongs to the network namespace of the calling thread.
pub fn open_arp_socket(ifindex: u32) -> io::Result<OwnedFd> {
    let ifindex = i32::try_from(ifindex)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "interface index out of range"))?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    // Without a protocol the socket receives nothing until it is bound, so that no frame passes the filter.
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    SockRef::from(&socket).attach_filter(&arp_filter())?;
    bind_to(&socket, ifindex)?;
    Ok(socket)
}

/// Classic BPF: accept a frame if its EtherType is ARP.
fn arp_filter() -> [SockFilter; 4] {
    let instruction =
        |code: u32, jt, jf, k| SockFilter::new(u16::try_from(code).unwrap_or_default(), jt, jf, k);
    [
        instruction(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 12),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::from(ETH_P_ARP)),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0xffff),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

fn bind_to(socket: &OwnedFd, ifindex: i32) -> io::Result<()> {
    // SAFETY: `sockaddr_ll` is plain numbers: all zeroes is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
    // ETH_P_ALL, not ETH_P_ARP: only then the socket also gets the frames that this host sends.
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
    address.sll_ifindex = ifindex;
    // SAFETY: `address` is a whole sockaddr_ll and its true length is given.
    let done = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            length_of::<libc::sockaddr_ll>(),
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Number of frames that the socket dropped since the last call (PACKET_STATISTICS resets it).
pub fn packets_lost(socket: &impl AsFd) -> io::Result<u32> {
    // SAFETY: `tpacket_stats` is plain numbers: all zeroes is a valid value.
    let mut statistics: libc::tpacket_stats = unsafe { zeroed() };
    let mut length = length_of::<libc::tpacket_stats>();
    // SAFETY: the kernel writes at most `length` bytes into `statistics`, and that is its size.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(statistics.tp_drops) }
}

/// The number of the socket's network namespace. The kernel never uses one twice in a boot
/// (SO_NETNS_COOKIE, Linux 5.14; an older kernel answers ENOPROTOOPT).
pub fn namespace_cookie(socket: &impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = length_of::<u64>();
    // SAFETY: the kernel writes at most `length` bytes into `cookie`, and that is its size.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// Reads an option of a socket into `buffer`, whose bytes the kernel may read as a question, and says how many there are now.
pub fn read_option(
    socket: &impl AsFd,
    level: i32,
    option: i32,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(buffer.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "too many bytes"))?;
    // SAFETY: the kernel reads and writes at most `length` bytes of `buffer`, and that is its size. Any byte is a valid one.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    usize::try_from(length).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}
