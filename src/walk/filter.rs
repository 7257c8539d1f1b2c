//! The verdict of foreign nftables rules on a packet at a hook. Pure.
//!
//! Base chains are asked in the order of their priority; a packet that one of them drops is dropped, one that it accepts goes on
//! to the next (net/netfilter/core.c, `nf_hook_slow`; nf_tables_core.c, `nft_do_chain`). What a rule asks that is not known makes
//! it one that may match: the verdict is known where both ends are the same.

use std::fmt;
use std::ops::RangeInclusive;

use super::hooked_packet::HookedPacket;
use super::registers::{
    Holds, MaybeByte, Registers, SetLookup, compare, find, known, masked, swapped, within,
};
use crate::state::firewall::{
    FilterBase, FilterChain, FilterOp, FilterRule, FilterTable, Firewall, HookPoint, MapResult,
    MapValue, RuleVerdict,
};

/// States of connections, as rules see them (`NF_CT_STATE_INVALID_BIT`, `NF_CT_STATE_BIT`).
pub const INVALID: u32 = 1;
/// A packet of a connection that was tracked in both directions.
pub const ESTABLISHED: u32 = 2;
/// The first packet of a connection.
pub const NEW: u32 = 8;
/// A packet that connection tracking leaves alone.
pub const UNTRACKED: u32 = 64;

/// `NF_IP_PRI_CONNTRACK`: up to it no packet has a state yet.
const TRACKS: i32 = -200;
/// More chains than call each other: NFT_JUMP_STACK_SIZE.
const DEEPEST: u8 = 16;
/// Ports that clients are given (`ip_local_port_range`): rules that tell these apart are unclear.
const CLIENT_PORTS: [u16; 2] = [33_001, 60_001];

/// What drops a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilterDrop {
    /// The chain: `nftables chain inet filter input`.
    pub chain: String,
    /// The rule: `rule with handle 7`, `rule 2`, or `policy`.
    pub rule: String,
    /// The command that shows it.
    pub shown_by: String,
}

impl FilterDrop {
    /// `None`: its policy drops the packet.
    fn new(table: &FilterTable, chain: &FilterChain, rule: Option<&FilterRule>) -> Self {
        Self {
            chain: table.describe(&chain.name),
            rule: rule.map_or_else(|| "policy".to_owned(), |rule| named(table, rule)),
            shown_by: table.shown_by(&chain.name),
        }
    }
}

/// A rule of nftables has a handle, one of iptables-legacy a number in its chain.
fn named(table: &FilterTable, rule: &FilterRule) -> String {
    let what = if table.family.is_legacy() { "rule" } else { "rule with handle" };
    format!("{what} {}", rule.handle)
}

impl fmt::Display for FilterDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} of the {}", self.rule, self.chain)
    }
}

/// Whether a packet passes a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterEnd {
    /// It does.
    Passes,
    /// It is dropped.
    Drops(FilterDrop),
    /// That is not known, for this.
    Unclear(String),
}

/// What becomes of a packet at a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it passes.
    pub end: FilterEnd,
    /// Its mark after that.
    pub mark: Option<u32>,
    /// Its state after that.
    pub state: Option<u32>,
    /// A rule rewrites its addresses, or may.
    pub altered: Option<String>,
}

impl Firewall {
    /// What becomes of `packet` at a hook, in the chains with these priorities.
    pub fn judge(
        &self,
        hook: HookPoint,
        priorities: &RangeInclusive<i32>,
        packet: &HookedPacket<'_>,
    ) -> Judgement {
        let [first, last] = CLIENT_PORTS.map(|port| {
            let ports = packet.ports.map(|both| both.map(|own| own.or(Some(port))));
            Traversal::new(self, HookedPacket { ports, ..*packet }).run(hook, priorities)
        });
        if first == last || first.altered.is_some() {
            return first;
        }
        let end = if first.end == last.end {
            first.end
        } else {
            let why = format!("rules at the hook {hook} ask for the port of the client");
            FilterEnd::Unclear(why)
        };
        Judgement {
            end,
            mark: first.mark.filter(|_| first.mark == last.mark),
            state: first.state.filter(|_| first.state == last.state),
            altered: last.altered,
        }
    }
}

/// How a packet's way through a base chain ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Terminal {
    Accept,
    Drop(FilterDrop),
    Other,
}

struct Traversal<'a> {
    firewall: &'a Firewall,
    packet: HookedPacket<'a>,
    /// Ends that a base chain may have before the one that it surely has.
    possible: Vec<Terminal>,
    /// What was not read there first.
    unread: Option<String>,
    altered: Option<String>,
}

impl<'a> Traversal<'a> {
    fn new(firewall: &'a Firewall, packet: HookedPacket<'a>) -> Self {
        Self { firewall, packet, possible: Vec::new(), unread: None, altered: None }
    }

    fn run(mut self, hook: HookPoint, priorities: &RangeInclusive<i32>) -> Judgement {
        let ipv6 = self.packet.source.is_ipv6();
        let firewall: &'a Firewall = self.firewall;
        let tables = firewall.tables.iter().filter(|table| table.family.has(ipv6));
        let chains = tables.flat_map(|table| table.chains.iter().map(move |chain| (table, chain)));
        let mut all: Vec<(FilterBase, &'a FilterTable, &'a FilterChain)> = chains
            .filter_map(|(table, chain)| Some((chain.base?, table, chain)))
            .filter(|(base, ..)| base.hook == hook && priorities.contains(&base.priority))
            .collect();
        all.sort_by_key(|(base, ..)| base.priority);
        let tracked = self.packet.state;
        let mut unclear = None;
        for (base, table, chain) in all {
            if self.packet.is_fresh && self.packet.state != Some(UNTRACKED) {
                self.packet.state = if base.priority <= TRACKS { Some(INVALID) } else { tracked };
            }
            match self.base_chain(base, table, chain) {
                FilterEnd::Passes => {}
                FilterEnd::Unclear(why) => drop(unclear.get_or_insert(why)),
                drops @ FilterEnd::Drops(_) => return self.judged(drops, tracked),
            }
            if self.altered.is_some() {
                break;
            }
        }
        self.judged(unclear.map_or(FilterEnd::Passes, FilterEnd::Unclear), tracked)
    }

    fn judged(self, end: FilterEnd, tracked: Option<u32>) -> Judgement {
        let HookedPacket { mark, state, .. } = self.packet;
        let state = if state == Some(INVALID) { tracked } else { state };
        Judgement { end, mark, state, altered: self.altered }
    }

    fn base_chain(
        &mut self,
        base: FilterBase,
        table: &'a FilterTable,
        chain: &'a FilterChain,
    ) -> FilterEnd {
        if let Some(why) = &table.unread {
            (self.packet.mark, self.packet.state) = (None, None);
            let chain = table.describe(&chain.name);
            return FilterEnd::Unclear(format!("the {chain} was not read: {why}"));
        }
        // net/netfilter/nf_nat_core.c, `nf_nat_inet_fn`.
        if base.nat && self.packet.state.is_some_and(|state| state != NEW) {
            return FilterEnd::Passes;
        }
        (self.possible, self.unread) = (Vec::new(), None);
        let sure = !base.nat || self.packet.state.is_some();
        let policy = || {
            if base.drops {
                Terminal::Drop(FilterDrop::new(table, chain, None))
            } else {
                Terminal::Accept
            }
        };
        let end = self.chain(table, chain, sure, 0).unwrap_or_else(policy);
        let possible = std::mem::take(&mut self.possible);
        let is_drop = |end: &Terminal| matches!(end, Terminal::Drop(_));
        let unclear = || {
            let path = table.describe(&chain.name);
            let why = self.unread.clone().unwrap_or_else(|| "what it asks is not known".to_owned());
            FilterEnd::Unclear(format!("the {path}: {why}"))
        };
        match end {
            Terminal::Drop(by) if possible.iter().all(is_drop) => FilterEnd::Drops(by),
            Terminal::Accept if possible.iter().all(|end| *end == Terminal::Accept) => {
                FilterEnd::Passes
            }
            _ => unclear(),
        }
    }

    /// How the chain ends the packet's way; `None`: it does not. `sure`: the packet surely comes to it.
    fn chain(
        &mut self,
        table: &'a FilterTable,
        chain: &'a FilterChain,
        sure: bool,
        depth: u8,
    ) -> Option<Terminal> {
        // Whether the packet, if it came to this chain, surely comes to the next rule.
        let mut goes_on = true;
        for rule in &chain.rules {
            let (holds, verdict) = self.rule((table, chain), rule, sure && goes_on);
            if self.altered.is_some() {
                return None;
            }
            let certain = holds == Holds::Yes && goes_on;
            let terminal = match verdict {
                None | Some(RuleVerdict::Continue) => continue,
                Some(RuleVerdict::Return) if certain => return None,
                Some(RuleVerdict::Return) => {
                    goes_on = false;
                    continue;
                }
                Some(RuleVerdict::Accept) => Some(Terminal::Accept),
                Some(RuleVerdict::Drop) => {
                    Some(Terminal::Drop(FilterDrop::new(table, chain, Some(rule))))
                }
                Some(RuleVerdict::Other(name)) => {
                    self.unread.get_or_insert_with(|| by_handle(table, rule, &name));
                    Some(Terminal::Other)
                }
                Some(RuleVerdict::Jump(name)) => self.called(table, &name, sure && certain, depth),
                Some(RuleVerdict::Goto(name)) => {
                    let end = self.called(table, &name, sure && certain, depth);
                    if certain {
                        return end;
                    }
                    goes_on &= end.is_some();
                    end
                }
            };
            match terminal {
                Some(end) if certain => return Some(end),
                possible => self.possible.extend(possible),
            }
        }
        None
    }

    fn called(
        &mut self,
        table: &'a FilterTable,
        name: &str,
        sure: bool,
        depth: u8,
    ) -> Option<Terminal> {
        match table.chains.iter().find(|chain| chain.name == name) {
            Some(chain) if depth < DEEPEST => self.chain(table, chain, sure, depth + 1),
            _ => {
                self.unread
                    .get_or_insert_with(|| format!("it leads to {name}, which was not read"));
                Some(Terminal::Other)
            }
        }
    }

    /// Whether the rule matches, and its verdict. What it does to the packet is done, surely or perhaps.
    fn rule(
        &mut self,
        (table, chain): (&'a FilterTable, &FilterChain),
        rule: &FilterRule,
        sure: bool,
    ) -> (Holds, Option<RuleVerdict>) {
        let mut registers = Registers::unknown();
        let mut all = Holds::Yes;
        for op in &rule.ops {
            let holds = match op {
                FilterOp::Verdict(verdict) => return (all, Some(verdict.clone())),
                FilterOp::Lookup { gives: MapResult::Verdict, at, set, .. } => {
                    let verdict = match lookup(table, &registers, *at, set) {
                        SetLookup::HasNot => return (Holds::No, None),
                        SetLookup::Has(element) => match &element.value {
                            Some(MapValue::Verdict(verdict)) => Some(verdict.clone()),
                            _ => None,
                        },
                        SetLookup::Unclear => None,
                    };
                    let other = || RuleVerdict::Other(format!("the map {set}"));
                    return (all, Some(verdict.unwrap_or_else(other)));
                }
                FilterOp::Lookup { at, set, negated, gives } => {
                    let found = lookup(table, &registers, *at, set);
                    if let MapResult::Value(to) = gives {
                        match &found {
                            SetLookup::Has(element) => match &element.value {
                                Some(MapValue::Value(value)) => {
                                    registers.put(*to, &known(&value.0));
                                }
                                _ => registers = Registers::unknown(),
                            },
                            _ => registers = Registers::unknown(),
                        }
                    }
                    match found {
                        SetLookup::Has(_) => Holds::Yes,
                        SetLookup::HasNot => Holds::No,
                        SetLookup::Unclear => Holds::Maybe,
                    }
                    .negated_if(*negated)
                }
                FilterOp::SetMark { from } => {
                    let value = from.and_then(|from| number(registers.get(from, 4)));
                    let surely = sure && all == Holds::Yes;
                    self.packet.mark = value.filter(|it| surely || self.packet.mark == Some(*it));
                    Holds::Yes
                }
                FilterOp::Untrack => {
                    let surely = sure && all == Holds::Yes;
                    self.packet.state = surely.then_some(UNTRACKED);
                    Holds::Yes
                }
                FilterOp::Alter(name) => {
                    let path = table.describe(&chain.name);
                    let rule = by_handle(table, rule, name);
                    self.altered = Some(format!("the {path}: {rule}"));
                    return (all, None);
                }
                FilterOp::Unread(_) => {
                    registers = Registers::unknown();
                    Holds::Maybe
                }
                op => self.condition(op, &mut registers),
            };
            if holds == Holds::Maybe {
                let name = match op {
                    FilterOp::Unread(name) => name.as_str(),
                    _ => "what is not known of the packet",
                };
                self.unread.get_or_insert_with(|| by_handle(table, rule, name));
            }
            all = all.and(holds);
            if all == Holds::No {
                return (Holds::No, None);
            }
        }
        (all, None)
    }

    /// Expressions that load, and those that ask.
    fn condition(&self, op: &FilterOp, registers: &mut Registers) -> Holds {
        match op {
            FilterOp::Load { field, to } => {
                registers.put(*to, &self.packet.load(self.firewall, *field));
                Holds::Yes
            }
            FilterOp::Constant { to, value } => {
                registers.put(*to, &known(&value.0));
                Holds::Yes
            }
            FilterOp::Mask { from, to, mask, xor } => {
                let bytes = masked(registers.get(*from, mask.0.len()), &mask.0, &xor.0);
                registers.put(*to, &bytes);
                Holds::Yes
            }
            FilterOp::Swap { from, to, size, length } => {
                let bytes = swapped(registers.get(*from, (*length).into()), (*size).into());
                registers.put(*to, &bytes);
                Holds::Yes
            }
            FilterOp::Compare { at, how, with } => {
                compare(registers.get(*at, with.0.len()), *how, &with.0)
            }
            FilterOp::Range { at, negated, from, to } => {
                within(registers.get(*at, from.0.len()), &from.0, &to.0).negated_if(*negated)
            }
            FilterOp::Ports { source, target, ranges, negated } => {
                let [from, to] = self.packet.ports.unwrap_or_default();
                let is_in =
                    |port: u16| ranges.iter().any(|(first, last)| (*first..=*last).contains(&port));
                let asked = [(*source, from), (*target, to)];
                let asked = asked.into_iter().filter(|(asked, _)| *asked).map(|(_, port)| port);
                let known: Option<Vec<bool>> = asked.map(|port| port.map(is_in)).collect();
                Holds::of(known.map(|all| all.contains(&true))).negated_if(*negated)
            }
            FilterOp::States { bits, negated } => {
                Holds::of(self.packet.state.map(|state| state & bits != 0)).negated_if(*negated)
            }
            FilterOp::TcpFlags { mask, value, negated } => {
                let flags = self.packet.tcp_flags;
                Holds::of(flags.map(|flags| flags & mask == *value)).negated_if(*negated)
            }
            // Those with a verdict or an effect are not asked here.
            _ => Holds::Maybe,
        }
    }
}

fn lookup<'a>(table: &'a FilterTable, registers: &Registers, at: u8, set: &str) -> SetLookup<'a> {
    match table.sets.get(set) {
        Some(set) => find(set, registers.get(at, usize::from(set.length))),
        None => SetLookup::Unclear,
    }
}

fn by_handle(table: &FilterTable, rule: &FilterRule, what: &str) -> String {
    format!("the {} ({what})", named(table, rule))
}

fn number(bytes: &[MaybeByte]) -> Option<u32> {
    let bytes: Option<Vec<u8>> = bytes.iter().copied().collect();
    Some(u32::from_ne_bytes(bytes?.try_into().ok()?))
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
