//! A table of xtables as the kernel hands it out: one block of entries (include/uapi/linux/netfilter_ipv4/ip_tables.h,
//! netfilter_ipv6/ip6_tables.h, netfilter/x_tables.h). Pure.
//!
//! An entry is what it asks of the IP header and the interfaces, then matches, then a target. Base chains begin where the table
//! says and end with their policy; a chain of a user begins behind a target ERROR that has its name.

use std::collections::BTreeMap;

use crate::kernel::nft::codec::name;
use crate::kernel::nft::filter::does_something;
use crate::kernel::nft::table::printable;
use crate::kernel::nft::xtables;
use crate::state::firewall::{
    Comparison, FilterBase, FilterChain, FilterFamily, FilterField, FilterOp, FilterRule,
    FilterTable, HookPoint, Octets, RuleVerdict,
};

/// Length of `struct ipt_getinfo`.
pub(super) const INFO_LENGTH: usize = 84;
/// NF_INET_NUMHOOKS.
const HOOKS: usize = 5;
/// `XT_RETURN`, and what the other verdicts are written as: `-NF_ACCEPT - 1`.
const RETURN: i32 = -5;
const ACCEPT: i32 = -2;
const DROP: i32 = -1;
/// `struct xt_entry_match` before its data.
const EXTENSION: usize = 32;
/// The register that is used.
const REGISTER: u8 = 0;

/// Where the chains of a table are, and how large it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableShape {
    /// Where the base chain of each hook begins and where its policy stands.
    hooks: [Option<(usize, usize)>; HOOKS],
    pub(super) rules: usize,
    /// Of all entries, in bytes.
    pub(super) size: usize,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn offset(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(word(bytes, at)?).ok()
}

/// A name in an array that it may not fill.
fn text(bytes: &[u8]) -> String {
    printable(&name(bytes))
}

impl TableShape {
    /// `struct ipt_getinfo`: a name of 32 bytes, which hooks, where they begin, where their policies stand, how many entries, and
    /// their size.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let valid = word(bytes, 32)?;
        let mut hooks = [None; HOOKS];
        for (number, hook) in hooks.iter_mut().enumerate() {
            if valid & (1 << number) != 0 {
                let at = 36 + 4 * number;
                *hook = Some((offset(bytes, at)?, offset(bytes, at + 4 * HOOKS)?));
            }
        }
        Some(Self { hooks, rules: offset(bytes, 76)?, size: offset(bytes, 80)? })
    }

    /// Of a table of which nothing is known: it may have a chain at each hook.
    pub(super) fn any() -> Self {
        Self { hooks: [Some((0, 0)); HOOKS], rules: 0, size: 0 }
    }

    fn hook_that_begins_at(&self, at: usize) -> Option<(usize, usize)> {
        let begins = |(number, hook): (usize, &Option<(usize, usize)>)| {
            hook.filter(|(begin, _)| *begin == at).map(|(_, policy)| (number, policy))
        };
        self.hooks.iter().enumerate().find_map(begins)
    }
}

/// Names of base chains, by the number of their hook.
const CHAINS: [&str; HOOKS] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Priorities of the tables (include/uapi/linux/netfilter_ipv4.h, `enum nf_ip_hook_priorities`; IPv6 has the same).
fn priority(table: &str, hook: usize) -> i32 {
    match (table, hook) {
        ("raw", _) => -300,
        ("mangle", _) => -150,
        // PREROUTING and OUTPUT rewrite destinations, the others sources.
        ("nat", 0 | 3) => -100,
        ("nat", _) => 100,
        ("security", _) => 50,
        _ => 0,
    }
}

fn base(table: &str, hook: usize, drops: bool) -> Option<FilterBase> {
    Some(FilterBase {
        hook: HookPoint::from_number(u32::try_from(hook).ok()?)?,
        priority: priority(table, hook),
        nat: table == "nat",
        drops,
    })
}

/// The table with its base chains, without rules.
pub(super) fn empty(family: FilterFamily, name: &str, shape: &TableShape) -> FilterTable {
    let present = shape.hooks.iter().enumerate().filter(|(_, hook)| hook.is_some());
    let chains = present.map(|(number, _)| FilterChain {
        name: CHAINS[number].to_owned(),
        base: base(name, number, false),
        rules: Vec::new(),
    });
    FilterTable {
        family,
        name: text(name.as_bytes()),
        chains: chains.collect(),
        sets: BTreeMap::new(),
        unread: None,
    }
}

/// An entry.
struct Entry<'a> {
    at: usize,
    next: usize,
    /// What it asks of the packet, and its flag "goto".
    header: (Vec<FilterOp>, bool),
    /// Name, revision and data.
    matches: Vec<(String, u8, &'a [u8])>,
    target: (String, u8, &'a [u8]),
}

/// Where the parts of an entry are.
struct Layout {
    /// Length of an address.
    address: usize,
    /// Of the part that asks the IP header.
    header: usize,
    /// Of all before the matches.
    entry: usize,
    /// Of the source in the IP header; the destination follows it.
    source: u8,
}

const LAYOUT_V4: Layout = Layout { address: 4, header: 84, entry: 112, source: 12 };
const LAYOUT_V6: Layout = Layout { address: 16, header: 136, entry: 168, source: 8 };

/// Reads all chains. An error says what does not fit.
pub(super) fn table(
    family: FilterFamily,
    name: &str,
    shape: &TableShape,
    bytes: &[u8],
) -> Result<FilterTable, String> {
    let layout = if family == FilterFamily::Ip6tables { &LAYOUT_V6 } else { &LAYOUT_V4 };
    let mut entries = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let entry = Entry::read(layout, bytes, at);
        let entry = entry.ok_or_else(|| format!("the entry at byte {at} is not whole"))?;
        at = entry.next;
        entries.push(entry);
    }
    let mut user_chains = BTreeMap::new();
    for entry in &entries {
        if entry.target.0 == "ERROR" {
            user_chains.insert(entry.next, text(entry.target.2));
        }
    }
    let mut found = empty(family, name, shape);
    found.chains.clear();
    let mut policy_at = None;
    for entry in entries {
        if let Some((hook, policy)) = shape.hook_that_begins_at(entry.at) {
            policy_at = Some(policy);
            let (name, base) = (CHAINS[hook].to_owned(), base(name, hook, false));
            found.chains.push(FilterChain { name, base, rules: Vec::new() });
        } else if entry.target.0 == "ERROR" {
            let name = text(entry.target.2);
            found.chains.push(FilterChain { name, base: None, rules: Vec::new() });
            continue;
        }
        let chain = found.chains.last_mut().ok_or("an entry stands before every chain")?;
        if policy_at == Some(entry.at) {
            let drops = entry.verdict() == Some(DROP);
            chain.base = chain.base.map(|base| FilterBase { drops, ..base });
            policy_at = None;
            continue;
        }
        let handle = u64::try_from(chain.rules.len()).unwrap_or_default() + 1;
        chain.rules.push(FilterRule { handle, ops: entry.ops(&user_chains) });
    }
    // The last ERROR is the end of the table.
    found.chains.pop();
    for chain in &mut found.chains {
        chain.rules.retain(does_something);
    }
    Ok(found)
}

impl<'a> Entry<'a> {
    fn read(layout: &Layout, bytes: &'a [u8], at: usize) -> Option<Self> {
        let bytes = bytes.get(at..)?;
        // After `nfcache`.
        let target_at = usize::from(short(bytes, layout.header + 4)?);
        let length = usize::from(short(bytes, layout.header + 6)?);
        let whole = bytes.get(..length).filter(|_| layout.entry <= target_at)?;
        let mut matches = Vec::new();
        let mut extension = layout.entry;
        while extension < target_at {
            let (read, length) = read_extension(whole.get(extension..target_at)?)?;
            matches.push(read);
            extension += length;
        }
        let (target, _) = read_extension(whole.get(target_at..)?)?;
        Some(Self { at, next: at + length, header: header(layout, whole)?, matches, target })
    }

    /// That of a target without a name.
    fn verdict(&self) -> Option<i32> {
        let (name, _, data) = &self.target;
        word(data, 0).filter(|_| name.is_empty()).map(u32::cast_signed)
    }

    fn ops(&self, user_chains: &BTreeMap<usize, String>) -> Vec<FilterOp> {
        let (asked, goes_to) = &self.header;
        let mut ops = asked.clone();
        for (name, revision, data) in &self.matches {
            ops.extend(xtables::matching_of(name, u32::from(*revision), data));
        }
        let Some(verdict) = self.verdict() else {
            let (name, revision, data) = &self.target;
            ops.extend(xtables::target_of(name, u32::from(*revision), data));
            return ops;
        };
        let jump = |at: usize| match user_chains.get(&at) {
            Some(chain) if *goes_to => RuleVerdict::Goto(chain.clone()),
            Some(chain) => RuleVerdict::Jump(chain.clone()),
            None => RuleVerdict::Other(format!("a jump to byte {at}")),
        };
        ops.push(FilterOp::Verdict(match verdict {
            ACCEPT => RuleVerdict::Accept,
            DROP => RuleVerdict::Drop,
            RETURN => RuleVerdict::Return,
            other => match usize::try_from(other) {
                // A rule without a target.
                Ok(at) if at == self.next => RuleVerdict::Continue,
                Ok(at) => jump(at),
                Err(_) => RuleVerdict::Other(format!("verdict {other}")),
            },
        }));
        ops
    }
}

type Extension<'a> = (String, u8, &'a [u8]);

/// `struct xt_entry_match`, or a target: its size, a name of 29 bytes, a revision, and data. With its size.
fn read_extension(bytes: &[u8]) -> Option<(Extension<'_>, usize)> {
    let size = usize::from(short(bytes, 0)?);
    let whole = bytes.get(..size).filter(|whole| whole.len() >= EXTENSION)?;
    Some(((text(&whole[2..31]), whole[31], &whole[EXTENSION..]), size))
}

/// `struct ipt_ip` or `ip6t_ip6`: what is asked of addresses, interfaces and the protocol, and whether the target is a "goto".
fn header(layout: &Layout, entry: &[u8]) -> Option<(Vec<FilterOp>, bool)> {
    /// IPT_INV_VIA_IN and so on.
    const IN: u8 = 1;
    const OUT: u8 = 2;
    const SOURCE: u8 = 8;
    const TARGET: u8 = 16;
    const PROTOCOL: u8 = 64;
    let length = layout.address;
    let behind_names = 4 * length + 64;
    let protocol = short(entry, behind_names)?;
    let is_v6 = length == 16;
    // IPv6: the traffic class comes first.
    let flags_at = behind_names + if is_v6 { 3 } else { 2 };
    let (flags, negated) = (*entry.get(flags_at)?, *entry.get(flags_at + 1)?);
    let mut ops = Vec::new();
    let offset = |nth: u8| layout.source + nth * u8::try_from(length).unwrap_or_default();
    for (nth, bit) in [(0_u8, SOURCE), (1, TARGET)] {
        let at = usize::from(nth) * length;
        let value = entry.get(at..at + length)?;
        let mask = entry.get(at + 2 * length..at + 3 * length)?;
        let size = u8::try_from(length).ok()?;
        let field = FilterField::Network { offset: offset(nth), length: size };
        ops.extend(asks(field, value, mask, negated & bit != 0));
    }
    for (nth, field, bit) in [(0, FilterField::InName, IN), (1, FilterField::OutName, OUT)] {
        let at = 4 * length + 16 * nth;
        let (value, mask) = (entry.get(at..at + 16)?, entry.get(at + 32..at + 48)?);
        ops.extend(asks(field, value, mask, negated & bit != 0));
    }
    if let Ok(number) = u8::try_from(protocol)
        && number != 0
    {
        ops.extend(asks(FilterField::Protocol, &[number], &[255], negated & PROTOCOL != 0));
    }
    // IPT_F_FRAG, or IP6T_F_TOS.
    let (unread, goto) = if is_v6 { (2, 4) } else { (1, 2) };
    if flags & unread != 0 {
        ops.push(FilterOp::Unread("fragment or traffic class".to_owned()));
    }
    Some((ops, flags & goto != 0))
}

/// Whether a field has this value under a mask; a mask of zeroes asks nothing.
fn asks(field: FilterField, value: &[u8], mask: &[u8], negated: bool) -> Vec<FilterOp> {
    if mask.iter().all(|byte| *byte == 0) {
        return Vec::new();
    }
    let how = if negated { Comparison::NotEqual } else { Comparison::Equal };
    let with = value.iter().zip(mask).map(|(value, mask)| value & mask).collect();
    let xor = Octets(vec![0; mask.len()]);
    let (from, to) = (REGISTER, REGISTER);
    vec![
        FilterOp::Load { field, to },
        FilterOp::Mask { from, to, mask: Octets(mask.to_vec()), xor },
        FilterOp::Compare { at: REGISTER, how, with: Octets(with) },
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;
    use crate::support::fuzz;

    /// An entry that asks nothing, with a target of this name and data.
    fn entry(layout: &Layout, target: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; layout.entry];
        let mut extension = vec![0; EXTENSION];
        extension[2..2 + target.len()].copy_from_slice(target.as_bytes());
        extension.extend(data);
        let size = u16::try_from(extension.len()).unwrap();
        extension[..2].copy_from_slice(&size.to_ne_bytes());
        let target_at = u16::try_from(layout.entry).unwrap();
        bytes.extend(extension);
        let length = u16::try_from(bytes.len()).unwrap();
        let at = layout.header + 4;
        bytes[at..at + 2].copy_from_slice(&target_at.to_ne_bytes());
        bytes[at + 2..at + 4].copy_from_slice(&length.to_ne_bytes());
        bytes
    }

    fn verdict(layout: &Layout, verdict: i32) -> Vec<u8> {
        entry(layout, "", &[verdict.to_ne_bytes(), [0; 4]].concat())
    }

    fn named(layout: &Layout, name: &str) -> Vec<u8> {
        let mut data = vec![0; 32];
        data[..name.len()].copy_from_slice(name.as_bytes());
        entry(layout, "ERROR", &data)
    }

    /// A table of IPv6 with a chain of input, one of a user, and the end.
    fn small() -> (TableShape, Vec<u8>) {
        let layout = &LAYOUT_V6;
        let mut drops_net = verdict(layout, DROP);
        drops_net[..2].copy_from_slice(&[0x20, 0x01]);
        drops_net[32..34].copy_from_slice(&[0xff, 0xff]);
        // From any interface but eth0.
        drops_net[64..69].copy_from_slice(b"eth0\0");
        drops_net[96..101].fill(0xff);
        drops_net[132] = 1;
        let jumps = verdict(layout, 0);
        let mut all = vec![drops_net, jumps, verdict(layout, DROP), named(layout, "user")];
        let user_at = all.iter().map(Vec::len).sum::<usize>();
        let jump = i32::try_from(user_at).unwrap().to_ne_bytes();
        let at = layout.entry + EXTENSION;
        all[1][at..at + 4].copy_from_slice(&jump);
        let policy = all[0].len() + all[1].len();
        all.extend([verdict(layout, RETURN), named(layout, "ERROR")]);
        let bytes = all.concat();
        let mut hooks = [None; HOOKS];
        hooks[1] = Some((0, policy));
        (TableShape { hooks, rules: 6, size: bytes.len() }, bytes)
    }

    #[test]
    fn chains_policies_and_what_is_asked_of_ipv6_are_read() {
        let (shape, bytes) = small();
        let found = table(FilterFamily::Ip6tables, "filter", &shape, &bytes).unwrap();
        let [input, user] = found.chains.as_slice() else { panic!("{found:?}") };
        let drops = true;
        let base = FilterBase { hook: HookPoint::Input, priority: 0, nat: false, drops };
        assert_eq!((input.name.as_str(), input.base), ("INPUT", Some(base)));
        assert_eq!((user.name.as_str(), user.base), ("user", None));
        let [first, second] = input.rules.as_slice() else { panic!("{input:?}") };
        let field = FilterField::Network { offset: 8, length: 16 };
        assert_eq!(first.ops[0], FilterOp::Load { field, to: REGISTER });
        let name = first.ops[3..6].to_vec();
        assert_eq!(name[0], FilterOp::Load { field: FilterField::InName, to: REGISTER });
        let FilterOp::Compare { how: Comparison::NotEqual, with, .. } = &name[2] else {
            panic!("{name:?}")
        };
        assert!(with.0.starts_with(b"eth0\0"));
        assert_eq!(first.ops[6], FilterOp::Verdict(RuleVerdict::Drop));
        let jump = FilterOp::Verdict(RuleVerdict::Jump("user".to_owned()));
        assert_eq!((second.handle, second.ops.as_slice()), (2, [jump].as_slice()));
        assert_eq!(user.rules[0].ops, [FilterOp::Verdict(RuleVerdict::Return)]);
    }

    #[test]
    fn fuzz_iptables() {
        let (shape, bytes) = small();
        fuzz::target!("fuzz_iptables", 10_000, vec![bytes.clone()], |bytes| {
            for family in [FilterFamily::Iptables, FilterFamily::Ip6tables] {
                let _ = table(family, "filter", &shape, bytes);
            }
            if let Some(shape) = TableShape::read(bytes) {
                let _ = table(FilterFamily::Iptables, "nat", &shape, bytes);
            }
        });
    }
}
