//! The registers of nf_tables, of whose bytes some are not known, and what is asked of them (net/netfilter/nf_tables_core.c,
//! nft_cmp.c, nft_range.c, nft_bitwise.c, nft_byteorder.c, nft_set_rbtree.c, nft_set_pipapo.c). Pure.

use std::cmp::Ordering;

use crate::state::firewall::{Comparison, FilterSet, SetElement};

/// Bytes of all registers.
const SIZE: usize = 64;
/// Bytes of a word.
const WORD: usize = 4;

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Yes,
    No,
    /// It is not known.
    Maybe,
}

impl Holds {
    pub(super) fn of(known: Option<bool>) -> Self {
        match known {
            Some(true) => Self::Yes,
            Some(false) => Self::No,
            None => Self::Maybe,
        }
    }

    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Maybe,
        }
    }

    pub(super) fn negated_if(self, negated: bool) -> Self {
        match (self, negated) {
            (Self::Yes, true) => Self::No,
            (Self::No, true) => Self::Yes,
            (holds, _) => holds,
        }
    }
}

/// A byte; `None`: it is not known.
pub(super) type MaybeByte = Option<u8>;

/// All registers.
#[derive(Debug)]
pub(super) struct Registers([MaybeByte; SIZE]);

impl Registers {
    /// Nothing of them is known.
    pub(super) fn unknown() -> Self {
        Self([None; SIZE])
    }

    /// Writes a register; the rest of its last word becomes 0.
    pub(super) fn put(&mut self, word: u8, bytes: &[MaybeByte]) {
        let at = usize::from(word) * WORD;
        let padded = bytes.len().next_multiple_of(WORD);
        let places = self.0.iter_mut().skip(at).take(padded);
        for (place, byte) in places.zip(bytes.iter().copied().chain(std::iter::repeat(Some(0)))) {
            *place = byte;
        }
    }

    /// So many bytes of a register, or as many as there are.
    pub(super) fn get(&self, word: u8, length: usize) -> &[MaybeByte] {
        let at = (usize::from(word) * WORD).min(SIZE);
        &self.0[at..(at + length).min(SIZE)]
    }
}

/// Bytes that are known.
pub(super) fn known(bytes: &[u8]) -> Vec<MaybeByte> {
    bytes.iter().copied().map(Some).collect()
}

/// How `bytes` compare with a constant of the same length; `None`: what decides is not known.
fn order(bytes: &[MaybeByte], with: &[u8]) -> Option<Ordering> {
    for (at, constant) in with.iter().enumerate() {
        match (*bytes.get(at)?)?.cmp(constant) {
            Ordering::Equal => {}
            differs => return Some(differs),
        }
    }
    Some(Ordering::Equal)
}

fn equals(bytes: &[MaybeByte], with: &[u8]) -> Holds {
    let differs = bytes.iter().zip(with).any(|(byte, with)| byte.is_some_and(|it| it != *with));
    if differs { Holds::No } else { Holds::of(order(bytes, with).map(Ordering::is_eq)) }
}

/// Whether they compare so.
pub(super) fn compare(bytes: &[MaybeByte], how: Comparison, with: &[u8]) -> Holds {
    let ordered = |wanted: fn(Ordering) -> bool| Holds::of(order(bytes, with).map(wanted));
    match how {
        Comparison::Equal => equals(bytes, with),
        Comparison::NotEqual => equals(bytes, with).negated_if(true),
        Comparison::Less => ordered(Ordering::is_lt),
        Comparison::LessOrEqual => ordered(Ordering::is_le),
        Comparison::Greater => ordered(Ordering::is_gt),
        Comparison::GreaterOrEqual => ordered(Ordering::is_ge),
    }
}

/// Whether they lie between these, ends included.
pub(super) fn within(bytes: &[MaybeByte], from: &[u8], to: &[u8]) -> Holds {
    let above = compare(bytes, Comparison::GreaterOrEqual, from);
    above.and(compare(bytes, Comparison::LessOrEqual, to))
}

/// Masked, and with bits turned.
pub(super) fn masked(bytes: &[MaybeByte], mask: &[u8], xor: &[u8]) -> Vec<MaybeByte> {
    let one = |(at, mask): (usize, &u8)| {
        let turned = xor.get(at).copied().unwrap_or(0);
        match (bytes.get(at).copied().flatten(), mask) {
            (_, 0) => Some(turned),
            (byte, mask) => byte.map(|byte| (byte & mask) ^ turned),
        }
    };
    mask.iter().enumerate().map(one).collect()
}

/// Numbers of `size` bytes between network order and that of the host.
pub(super) fn swapped(bytes: &[MaybeByte], size: usize) -> Vec<MaybeByte> {
    if cfg!(target_endian = "big") || size == 0 {
        return bytes.to_vec();
    }
    bytes.chunks(size).flat_map(|number| number.iter().rev().copied()).collect()
}

/// What a set has for a key.
#[derive(Debug)]
pub(super) enum SetLookup<'a> {
    Has(&'a SetElement),
    HasNot,
    /// It is not known.
    Unclear,
}

/// Looks a key up.
pub(super) fn find<'a>(set: &'a FilterSet, key: &[MaybeByte]) -> SetLookup<'a> {
    if set.unread.is_some() {
        return SetLookup::Unclear;
    }
    let found = if set.interval && set.fields.len() < 2 {
        in_intervals(set, key)
    } else {
        among(set, |element| of_element(set, element, key))
    };
    match found {
        SetLookup::HasNot => set
            .elements
            .iter()
            .find(|element| element.key.is_none())
            .map_or(SetLookup::HasNot, SetLookup::Has),
        found => found,
    }
}

fn among(set: &FilterSet, holds: impl Fn(&SetElement) -> Holds) -> SetLookup<'_> {
    let mut unclear = false;
    for element in &set.elements {
        match holds(element) {
            Holds::Yes => return SetLookup::Has(element),
            Holds::Maybe => unclear = true,
            Holds::No => {}
        }
    }
    if unclear { SetLookup::Unclear } else { SetLookup::HasNot }
}

/// Whether the element has the key: field by field where it is a range of fields.
fn of_element(set: &FilterSet, element: &SetElement, key: &[MaybeByte]) -> Holds {
    let Some(first) = &element.key else { return Holds::No };
    let Some(last) = &element.last else { return equals(key, &first.0) };
    let (mut at, mut holds) = (0, Holds::Yes);
    for length in set.fields.iter().map(|length| usize::from(*length)) {
        let field = |bytes: &[u8]| bytes.get(at..at + length).map(<[u8]>::to_vec);
        let (Some(from), Some(to), Some(own)) =
            (field(&first.0), field(&last.0), key.get(at..at + length))
        else {
            return Holds::Maybe;
        };
        holds = holds.and(within(own, &from, &to));
        at += length.next_multiple_of(WORD);
    }
    holds
}

/// Elements begin and end intervals: of those that are not above the key the last decides, one that begins before one that
/// ends.
fn in_intervals<'a>(set: &'a FilterSet, key: &[MaybeByte]) -> SetLookup<'a> {
    if let Some(found) = set.elements.iter().find(|element| element.last.is_some()) {
        // A kernel that lists intervals by both ends.
        let Some(first) = &found.key else { return SetLookup::Unclear };
        let length = first.0.len();
        return among(set, |element| match (&element.key, &element.last) {
            (Some(from), Some(to)) => within(key.get(..length).unwrap_or(key), &from.0, &to.0),
            _ => Holds::No,
        });
    }
    let mut best: Option<&SetElement> = None;
    for element in &set.elements {
        let Some(own) = &element.key else { continue };
        match order(key, &own.0) {
            None => return SetLookup::Unclear,
            Some(Ordering::Less) => {}
            Some(_) => {
                let rank = |it: &SetElement| (it.key.clone(), !it.ends);
                if best.is_none_or(|best| rank(element) > rank(best)) {
                    best = Some(element);
                }
            }
        }
    }
    best.filter(|element| !element.ends).map_or(SetLookup::HasNot, SetLookup::Has)
}
