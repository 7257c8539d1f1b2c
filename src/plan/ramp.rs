//! Taking real servers in slowly: a new one begins with a small weight, which is raised in a few steps.
//!
//! Only where a smaller weight means a smaller share and nothing else: by `wrr`, `wlc`, `sed` and `twos`. By
//! `rr`, `lc` and `dh` weights count for nothing; `sh` and `mh` would send their clients elsewhere at every
//! raise; to `fo`, `ovf`, `lblc` and `lblcr` a weight is something else, and `nq` gives an idle one
//! a connection whatever its weight (ip_vs_*.c in net/netfilter/ipvs).
//!
//! Pure.

use std::collections::BTreeSet;

use super::drain::{Arranged, PacingOptions, Raise};
use crate::state::{
    Destination, DestinationId, DestinationKey, Edit, HostState, ServiceKey, Stage, Step,
};
use crate::topology::{Scheduler, WeightSource};

/// How many weights there are at most, the wanted one included.
const STEPS: u32 = 5;

/// Whether a real server's share follows its weight.
pub fn shares_by_weight(scheduler: Scheduler) -> bool {
    match scheduler {
        Scheduler::Wrr | Scheduler::Wlc | Scheduler::Sed | Scheduler::Twos => true,
        Scheduler::Rr
        | Scheduler::Lc
        | Scheduler::Lblc
        | Scheduler::Lblcr
        | Scheduler::Dh
        | Scheduler::Sh
        | Scheduler::Mh
        | Scheduler::Nq
        | Scheduler::Fo
        | Scheduler::Ovf => false,
    }
}

/// The weights on the way to `wanted`, which is the last.
pub fn weights(wanted: u32) -> Vec<u32> {
    let part = |n: u32| u64::from(wanted) * u64::from(n) / u64::from(STEPS);
    let mut all: Vec<u32> = (1..=STEPS)
        .filter_map(|n| u32::try_from(part(n)).ok())
        .filter(|weight| *weight > 0)
        .collect();
    all.dedup();
    all
}

/// What is raised later.
struct Later {
    at_ms: u64,
    step: Step,
}

/// Lets what is added, or was at weight 0, begin with a small weight, and raises it in [`Stage::Ramp`].
pub(super) fn ramp(options: &PacingOptions<'_>, seen: &HostState, arranged: &mut Arranged) {
    let removed: BTreeSet<(ServiceKey, DestinationKey)> =
        arranged.pacing.leaving.iter().map(|one| (one.service.clone(), one.destination)).collect();
    let mut later = Vec::new();
    let mut noted = BTreeSet::new();
    for step in arranged.stages.iter_mut().flat_map(|(_, steps)| steps) {
        let Some(edit) = step.edit.of_mut::<Destination>() else { continue };
        let Some(destination) = edit.after.as_mut() else { continue };
        let took_none = |before: &Destination| before.weight == 0 && destination.weight > 0;
        if !edit.before.as_ref().is_none_or(took_none) {
            continue;
        }
        let DestinationId { service: key, key: at } = edit.key.clone();
        let key = &key;
        let (Some(file), Some(there)) = (options.services.get(key), seen.services.get(key)) else {
            continue;
        };
        let seconds = options.overrides.ramp.unwrap_or(file.pace.ramp);
        let stays = |(other, theirs): (&DestinationKey, &Destination)| {
            *other != at && theirs.weight > 0 && !removed.contains(&(key.clone(), *other))
        };
        // A share is one beside others.
        if seconds == 0 || destination.weight == 0 || !there.destinations.iter().any(stays) {
            continue;
        }
        let weights = weights(destination.weight);
        let why_not = if file.weights == WeightSource::External {
            Some("a health checker sets its weights, and may do so meanwhile".to_owned())
        } else if !shares_by_weight(file.scheduler) {
            Some(format!(
                "by the scheduler {} a smaller weight is no smaller share",
                file.scheduler
            ))
        } else if weights.len() < 2 {
            Some(
                "a weight of 1 cannot be split: give its real servers larger ones, 10 say"
                    .to_owned(),
            )
        } else {
            None
        };
        if let Some(why) = why_not {
            if noted.insert((key.clone(), why.clone())) {
                arranged.notes.push(format!("{} is not ramped up: {why}", file.display_name()));
            }
            continue;
        }
        later.extend(raises(key, at, destination, &weights, seconds));
        if let [first, ..] = weights.as_slice() {
            destination.weight = *first;
            step.why = format!("{}; its weight grows over {seconds} s", step.why);
        }
    }
    later.sort_by_key(|one| one.at_ms);
    let mut steps = Vec::new();
    for Later { at_ms, step } in later {
        steps.push(step);
        match arranged.pacing.raises.last_mut() {
            Some(raise) if raise.after_ms == at_ms => raise.steps += 1,
            _ => arranged.pacing.raises.push(Raise { after_ms: at_ms, steps: 1 }),
        }
    }
    arranged.stages.push((Stage::Ramp, steps));
}

/// From the first of `weights` to the last, evenly over `seconds`.
fn raises(
    service: &ServiceKey,
    key: DestinationKey,
    wanted: &Destination,
    weights: &[u32],
    seconds: u32,
) -> Vec<Later> {
    let count = u64::try_from(weights.len().saturating_sub(1)).unwrap_or(u64::MAX).max(1);
    let with = |weight: u32| Destination { weight, ..wanted.clone() };
    let raise = |(pair, nth): (&[u32], u64)| {
        let &[from, to] = pair else { return None };
        let (before, after) = (with(from), with(to));
        let id = DestinationId { service: service.clone(), key };
        let change = Edit::change::<Destination>(id, before, after);
        let at_ms = u64::from(seconds) * 1000 * nth / count;
        let why =
            format!("its share grows: {nth} of {count}, {} s after it was added", at_ms / 1000);
        Some(Later { at_ms, step: Step { edit: change, why } })
    };
    weights.windows(2).zip(1..).filter_map(raise).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_grow_to_the_wanted_one_in_few_steps() {
        assert_eq!(weights(1), [1]);
        assert_eq!(weights(2), [1, 2]);
        assert_eq!(weights(3), [1, 2, 3]);
        assert_eq!(weights(10), [2, 4, 6, 8, 10]);
        assert_eq!(weights(2_147_483_647).last(), Some(&2_147_483_647));
        assert_eq!(weights(0), Vec::<u32>::new());
        for wanted in 1..200 {
            let all = weights(wanted);
            assert!(all.len() <= 5 && all.is_sorted() && all.last() == Some(&wanted), "{all:?}");
        }
    }
}
