//! What a transaction that was cut off has left on the hosts, and whether `plan` tells just that.

use std::collections::BTreeMap;
use std::fs;

use lvsprov::names::HostName;
use lvsprov::state::Journal;
use serde_json::Value;

use super::cluster::{Cluster, Photo};
use super::host_view::HostView;
use super::points::{Move, Try};
use super::scene_run::SceneRun;

/// What lies on the hosts, as files say it.
pub struct InDoubt {
    /// The journals, and whether the host has agreed.
    open: BTreeMap<HostName, (Journal, bool)>,
    /// Of each journal's steps, how many are there.
    counts: BTreeMap<HostName, usize>,
}

impl InDoubt {
    pub fn read(cluster: &Cluster, photo: &Photo) -> Self {
        let mut open = BTreeMap::new();
        let mut counts = BTreeMap::new();
        let name = cluster.topology.name.as_str();
        for host in cluster.hosts() {
            let folder = cluster.path(&host, "var/lib/lvsprov").join(name);
            let Ok(text) = fs::read_to_string(folder.join("journal.json")) else { continue };
            let journal: Journal = serde_json::from_str(&text).unwrap();
            let mark = |mark: &str| folder.join(journal.transaction.as_str()).join(mark).exists();
            let agreed = mark("voted") || mark("committing");
            let view = HostView::of(&photo[&host]);
            let changes: Vec<_> = journal.steps().map(|step| &step.edit).collect();
            counts.insert(host.clone(), view.count(changes.into_iter()));
            open.insert(host, (journal, agreed));
        }
        Self { open, counts }
    }

    pub fn is_nothing(&self) -> bool {
        self.open.is_empty()
    }

    pub fn there(&self) -> usize {
        self.counts.values().sum()
    }

    pub fn steps(&self) -> usize {
        self.open.values().map(|(journal, _)| journal.steps().count()).sum()
    }

    /// Whether `plan` says just that.
    pub fn agrees_with_plan(&self, run: &SceneRun, one: &Try) -> Result<(), String> {
        let file = run.file(one.go.to.max(1));
        let ended = run.cluster.lvsprov(&["plan", file, "--format", "json"]);
        let report: Value = serde_json::from_str(&ended.out)
            .map_err(|error| format!("plan's JSON: {error}\n{ended}"))?;
        let wrong = |why: String| Err(format!("{why}\nplan said:\n{ended}"));
        for host in run.cluster.hosts() {
            let told = &report["hosts"][host.as_str()]["unfinished"];
            let (journal, agreed) = match (told.is_object(), self.open.get(&host)) {
                (false, None) => continue,
                (true, Some(open)) => open,
                (false, Some(_)) => return wrong(format!("plan is silent about {host}'s journal")),
                (true, None) => return wrong(format!("plan invents a journal on {host}")),
            };
            let truth = serde_json::json!({
                "id": journal.transaction.as_str(),
                "steps": journal.steps().count(),
                "as_wanted": self.counts.get(&host),
                "agreed": agreed,
                "restarted": false,
                "holder": null,
                "reverts_in_s": null,
            });
            for (name, value) in truth.as_object().into_iter().flatten() {
                if told[name] != *value {
                    return wrong(format!(
                        "{host}: plan says {name} {}, it is {value}",
                        told[name]
                    ));
                }
            }
        }
        Ok(())
    }

    /// Where `rollback` must lead: on, if all have agreed to it that have not settled it.
    pub fn way_back(&self, go: Move, run: &SceneRun, photo: &Photo) -> usize {
        if self.open.is_empty() {
            return if run.is(go.from, photo).is_ok() { go.from } else { go.to };
        }
        let all_agreed = self.open.values().all(|(_, agreed)| *agreed);
        if all_agreed { go.to } else { go.from }
    }
}
