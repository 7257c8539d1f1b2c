//! `lvs_method` and `lb_kind`: forwarding methods with their tunnels.

use super::super::remark::quote;
use super::super::words;
use super::KeepalivedReader;
use super::tree::Statement;
use crate::state::{ForwardingMethod, Tunnel};

/// Forwarding method with its tunnel.
pub(super) type ForwardMethod = (ForwardingMethod, Tunnel);

impl KeepalivedReader {
    /// `NAT`, `DR` or `TUN [type ipip|gue|gre] [port N] [nocsum|csum|remcsum]`.
    pub(super) fn method(&mut self, statement: &Statement) -> Option<ForwardMethod> {
        match method(statement.words.get(1..).unwrap_or_default()) {
            Ok(method) => Some(method),
            Err(why) => {
                self.remarks.not_understood(quote(&statement.words.join(" ")), why);
                None
            }
        }
    }
}

fn method(words: &[String]) -> Result<ForwardMethod, &'static str> {
    let mut words = words.iter().map(String::as_str);
    let method = match words.next() {
        Some("NAT") => ForwardingMethod::Masquerade,
        Some("DR") => ForwardingMethod::DirectRoute,
        Some("TUN") => ForwardingMethod::Tunnel,
        _ => return Err("the methods are NAT, DR and TUN"),
    };
    let (mut kind, mut port, mut flags) = ("ipip", None, 0);
    while let Some(word) = words.next() {
        match word {
            "type" => kind = words.next().unwrap_or_default(),
            "port" => {
                port = words.next().and_then(|text| words::number(text, 1, 65_535));
                if port.is_none() {
                    return Err("the port of a gue tunnel is a number from 1 to 65535");
                }
            }
            "nocsum" => flags = 0,
            "csum" => flags = 1,
            "remcsum" => flags = 2,
            _ => return Err("the options of a method are type, port, nocsum, csum and remcsum"),
        }
    }
    let tunnel = match (kind, port, flags) {
        ("ipip", None, 0) => Tunnel::Ipip,
        ("gre", None, 0 | 1) => Tunnel::Gre { flags },
        ("gue", Some(port), _) => Tunnel::Gue { port: u16::try_from(port).unwrap_or(0), flags },
        ("gue", None, _) => return Err("a gue tunnel needs a port"),
        _ => return Err("this tunnel type does not take these options"),
    };
    Ok((method, tunnel))
}
