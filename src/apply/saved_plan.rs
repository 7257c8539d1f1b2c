//! A saved plan and the state that it was made from, so that `apply` refuses it where a host has changed
//! since. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::cluster_plan::{ClusterPlan, HostPlanResult};
use super::prepare::expected_of;
use super::session::Observations;
use crate::names::HostName;
use crate::state::{Expected, Stage, Step};
use crate::visible::{hex, is_hidden, visible};

/// The `schema` member.
pub const SCHEMA: &str = "lvsprov/saved-plan/1";

/// The whole document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedPlan {
    /// [`SCHEMA`].
    pub schema: String,
    /// [`SavedContent::fingerprint`] of `plan`.
    pub fingerprint: String,
    /// Who saved it; for people only.
    pub by: String,
    /// When, in seconds since 1970; for people only.
    pub at: u64,
    /// What is executed.
    pub plan: SavedContent,
}

/// The steps, and the state that they were made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedContent {
    /// The topology file's name.
    pub file: String,
    /// Its whole text.
    pub topology: String,
    /// `--adopt`.
    pub adopt: bool,
    /// `--limit`.
    pub limit: BTreeSet<HostName>,
    /// `--drain`, in seconds.
    pub drain: Option<u32>,
    /// `--ramp`, in seconds.
    pub ramp: Option<u32>,
    /// Each host that was observed.
    pub hosts: BTreeMap<HostName, SavedHost>,
}

/// One host of a saved plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedHost {
    /// Its steps.
    pub stages: Vec<(Stage, Vec<Step>)>,
    /// The state that they were made from, without connection counters, which always differ.
    pub expected: Expected,
}

/// Why a saved plan cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SavedPlanError {
    /// It is cut off, or not of its schema.
    #[error("{file} is a saved plan, but damaged: make it anew with `lvsprov plan --out`")]
    Damaged {
        /// Which file.
        file: String,
        /// Where.
        source: serde_json::Error,
    },
    /// Another format.
    #[error(
        "{file} is a saved plan of another version ({schema}); this lvsprov reads {SCHEMA}: make it anew"
    )]
    Version {
        /// Which file.
        file: String,
        /// Its schema.
        schema: String,
    },
    /// lvsprov did not write it: it saves no such characters.
    #[error(
        "{file} is a saved plan, but has {text} in it: lvsprov saves no text that a terminal would obey; make \
         it anew with `lvsprov plan --out`"
    )]
    Hidden {
        /// Which file.
        file: String,
        /// The text, made visible.
        text: String,
    },
    /// Its content is not what was saved.
    #[error(
        "{file} was changed after it was saved: its fingerprint says {stated}, its content has {actual}; make \
         it anew with `lvsprov plan --out`"
    )]
    Changed {
        /// Which file.
        file: String,
        /// The first 12 digits of the fingerprint in the file.
        stated: String,
        /// The first 12 digits of the fingerprint of its content.
        actual: String,
    },
}

/// How a fingerprint is shown.
pub fn short(fingerprint: &str) -> String {
    fingerprint.chars().take(12).collect()
}

impl SavedContent {
    /// The hosts of a plan; `None`: some host could not be planned.
    pub fn hosts(
        plan: &ClusterPlan,
        observed: &Observations,
    ) -> Option<BTreeMap<HostName, SavedHost>> {
        let mut hosts = BTreeMap::new();
        for (name, result) in &plan.hosts {
            match result {
                HostPlanResult::Plan(plan) => {
                    let observation = observed.get(name)?.as_ref().ok()?;
                    let stages = plan.stages.clone();
                    let expected = expected_of(plan, observation);
                    hosts.insert(name.clone(), SavedHost { stages, expected });
                }
                HostPlanResult::Absent(_) => {}
                HostPlanResult::Obstructed(_) | HostPlanResult::Failed(..) => return None,
            }
        }
        Some(hosts)
    }

    /// SHA-256 of its canonical JSON (members sorted, no white space), in 64 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        // The members of a `Value` are sorted. Every plan can be written as one.
        let canonical = serde_json::to_value(self).map(|v| v.to_string()).unwrap_or_default();
        hex(&Sha256::digest(canonical.as_bytes()))
    }

    /// How the hosts differ from what this was made from; empty if no host does.
    pub fn differences(
        &self,
        plan: &ClusterPlan,
        observed: &Observations,
    ) -> BTreeMap<HostName, Vec<String>> {
        let mut all = BTreeMap::new();
        let names: BTreeSet<&HostName> = self.hosts.keys().chain(plan.hosts.keys()).collect();
        for name in names {
            let differs = self.differs(name, plan.hosts.get(name), observed);
            if !differs.is_empty() {
                all.insert(name.clone(), differs);
            }
        }
        all
    }

    fn differs(
        &self,
        name: &HostName,
        now: Option<&HostPlanResult>,
        observed: &Observations,
    ) -> Vec<String> {
        let observation = observed.get(name).and_then(|observed| observed.as_ref().ok());
        match (self.hosts.get(name), now, observation) {
            (Some(then), Some(HostPlanResult::Plan(now)), Some(observation)) => {
                let mut differs = then.expected.differences(observation);
                let owners = expected_of(now, observation).owners;
                differs.extend(then.expected.other_owners(&owners));
                // Steps of one plan that the other lacks.
                let text = |stages: &[(Stage, Vec<Step>)]| -> BTreeSet<String> {
                    let steps = stages.iter().flat_map(|(_, steps)| steps);
                    steps.map(|step| step.edit.to_string()).collect()
                };
                let (old, new) = (text(&then.stages), text(&now.stages));
                differs.extend(old.difference(&new).map(|gone| format!("no longer to do: {gone}")));
                differs.extend(new.difference(&old).map(|more| format!("now to do: {more}")));
                if differs.is_empty() && then.stages != now.stages {
                    differs.push("the order of the steps, or why they are done".to_owned());
                }
                differs
            }
            (Some(_), Some(result), _) => {
                let mut why = result.report().problems();
                if why.is_empty() {
                    why.push("it is not looked at any more".to_owned());
                }
                why
            }
            (Some(_), None, _) => vec!["the topology has no such host".to_owned()],
            (None, Some(HostPlanResult::Absent(_)) | None, _) => Vec::new(),
            (None, Some(_), _) => vec!["it was not looked at when the plan was saved".to_owned()],
        }
    }
}

impl SavedPlan {
    /// A plan to save.
    pub fn of(plan: SavedContent, by: String, at: u64) -> Self {
        Self { schema: SCHEMA.to_owned(), fingerprint: plan.fingerprint(), by, at, plan }
    }

    /// Whether a file's text is, or was, a saved plan rather than a topology.
    pub fn is_one(text: &str) -> bool {
        let start: String = text.chars().filter(|c| !c.is_whitespace()).take(64).collect();
        start.starts_with('{') && text.contains("lvsprov/saved-plan/")
    }

    /// Reads one that [`SavedPlan::is_one`]; `file` for messages.
    pub fn read(file: &str, text: &str) -> Result<Self, SavedPlanError> {
        let damaged = |source| SavedPlanError::Damaged { file: file.to_owned(), source };
        let document: Value = serde_json::from_str(text).map_err(damaged)?;
        if let Some(text) = hidden_in(&document) {
            let text = format!("'{}'", visible(text).chars().take(60).collect::<String>());
            return Err(SavedPlanError::Hidden { file: file.to_owned(), text });
        }
        if let Some(schema) = document.get("schema").and_then(|schema| schema.as_str())
            && schema != SCHEMA
        {
            return Err(SavedPlanError::Version {
                file: file.to_owned(),
                schema: schema.to_owned(),
            });
        }
        let saved: Self = serde_json::from_value(document).map_err(damaged)?;
        let actual = saved.plan.fingerprint();
        if actual != saved.fingerprint {
            return Err(SavedPlanError::Changed {
                file: file.to_owned(),
                stated: short(&saved.fingerprint),
                actual: short(&actual),
            });
        }
        Ok(saved)
    }
}

/// A text in a saved plan that a terminal would obey. The topology and the name of its file come from the
/// user and may have any text; they are not shown from here.
fn hidden_in(value: &Value) -> Option<&str> {
    let bad = |text: &str| text.chars().any(is_hidden);
    match value {
        Value::String(text) => bad(text).then_some(text),
        Value::Array(all) => all.iter().find_map(hidden_in),
        Value::Object(members) => members.iter().find_map(|(key, value)| match key.as_str() {
            "topology" | "file" => None,
            key if bad(key) => Some(key),
            _ => hidden_in(value),
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::cluster_plan::Direction;
    use super::super::tests::{applied, host, plan};
    use super::*;
    use crate::state::{Counters, Observation, Sysctl, VsItem};
    use crate::support::Cluster;
    use crate::topology::{Forward, Persistence};

    fn saved() -> SavedPlan {
        let content = SavedContent {
            file: "a.yaml".to_owned(),
            topology: "version: 1\n".to_owned(),
            adopt: false,
            limit: BTreeSet::new(),
            drain: None,
            ramp: None,
            hosts: BTreeMap::new(),
        };
        SavedPlan::of(content, "me".to_owned(), 7)
    }

    #[test]
    fn what_was_saved_is_read_again_and_nothing_else() {
        let text = serde_json::to_string_pretty(&saved()).unwrap();
        assert!(SavedPlan::is_one(&text));
        assert_eq!(SavedPlan::read("p", &text).unwrap(), saved());
        for end in 40..text.len() - 1 {
            let cut = &text[..end];
            if SavedPlan::is_one(cut) {
                assert!(
                    matches!(SavedPlan::read("p", cut), Err(SavedPlanError::Damaged { .. })),
                    "{end}"
                );
            }
        }
        let changed = text.replace("version: 1", "version: 2");
        assert!(matches!(SavedPlan::read("p", &changed), Err(SavedPlanError::Changed { .. })));
        let later = text.replace("saved-plan/1", "saved-plan/2");
        assert!(matches!(SavedPlan::read("p", &later), Err(SavedPlanError::Version { .. })));
        assert!(!SavedPlan::is_one("version: 1 # lvsprov/saved-plan/1\n"));
        assert!(!SavedPlan::is_one("{version: 1}"));
    }

    #[test]
    fn a_plan_that_a_terminal_would_obey_is_refused_and_a_topology_may_have_any_words() {
        let mut evil = saved();
        evil.plan.topology = "version: 1 # \u{202e}\u{7f}\n".to_owned();
        let evil = SavedPlan::of(evil.plan, "me".to_owned(), 7);
        let text = serde_json::to_string(&evil).unwrap();
        assert_eq!(SavedPlan::read("p", &text).unwrap(), evil);
        for (from, to) in [
            ("\"me\"", "\"me\\u001b]52;c;aGk=\\u0007\""),
            ("\"by\"", "\"b\u{202e}y\""),
            ("saved-plan/1", "saved-plan/1\u{9b}2J"),
        ] {
            let error = SavedPlan::read("p", &text.replace(from, to)).unwrap_err();
            assert!(matches!(error, SavedPlanError::Hidden { .. }), "{error}");
            assert!(!error.to_string().chars().any(is_hidden), "{error:?}");
        }
    }

    #[test]
    fn who_saved_it_and_when_is_not_in_the_fingerprint_and_the_rest_is() {
        let one = saved();
        let other = SavedPlan::of(one.plan.clone(), "you".to_owned(), 8);
        assert_eq!(one.fingerprint, other.fingerprint);
        assert_eq!(one.fingerprint.len(), 64);
        let adopt = SavedContent { adopt: true, ..one.plan.clone() };
        assert_ne!(adopt.fingerprint(), one.fingerprint);
    }

    #[test]
    fn connections_that_came_or_went_since_are_no_difference() {
        let mut topology = Cluster::of(&[(Forward::Dr, 80, vec![1, 2, 3])]).topology;
        topology.services[0].persistence =
            Some(Persistence { timeout: 600, netmask: u32::MAX, engine: None });
        let mut observed = applied(&topology);
        // One was taken out by hand, and leaves the file now.
        let director: &mut Observation =
            observed.get_mut(&host("director")).unwrap().as_mut().unwrap();
        let template = Sysctl::Vs(VsItem::ExpireQuiescentTemplate);
        director.state.sysctls.insert(template, "0".to_owned());
        let (key, service) = director.state.services.iter_mut().next().unwrap();
        let (at, destination) = service.destinations.iter_mut().next_back().unwrap();
        destination.weight = 0;
        let (key, at) = (key.clone(), *at);
        topology.services[0].real_servers.pop();
        let mut counted = |active: u32| {
            let counters = Counters { active, ..Counters::default() };
            let director = observed.get_mut(&host("director")).unwrap().as_mut().unwrap();
            director.counters = [(key.clone(), [(at, counters)].into())].into();
            (
                plan(&topology, &observed, &BTreeMap::new(), Direction::Apply { now: 8 }),
                observed.clone(),
            )
        };
        let (monday, then) = counted(4);
        let (tuesday, now) = counted(0);
        let content =
            SavedContent { hosts: SavedContent::hosts(&monday, &then).unwrap(), ..saved().plan };
        assert!(!content.hosts[&host("director")].stages.is_empty());
        assert_eq!(content.differences(&tuesday, &now), BTreeMap::new());
        let anew =
            SavedContent { hosts: SavedContent::hosts(&tuesday, &now).unwrap(), ..saved().plan };
        assert_eq!(anew.fingerprint(), content.fingerprint());
    }

    #[test]
    fn fuzz_saved_plan() {
        let seeds = vec![serde_json::to_vec(&saved()).unwrap()];
        crate::support::fuzz::target!("fuzz_saved_plan", 3000, seeds, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            if SavedPlan::is_one(&text)
                && let Ok(plan) = SavedPlan::read("p", &text)
            {
                assert_eq!(plan.fingerprint, plan.plan.fingerprint());
            }
        });
    }
}
