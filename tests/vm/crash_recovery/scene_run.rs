//! A scene with its lab: the states that the cluster was seen in, and how it gets from one to another.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::cluster::{Cluster, Photo, difference};
use super::points::Move;
use super::scenes::Scene;

/// A scene as it is played.
pub struct SceneRun {
    pub scene: Scene,
    pub cluster: Cluster,
    pub state: usize,
    files: Vec<PathBuf>,
    /// Each state as it was first reached, without anything in the way.
    pub photos: BTreeMap<usize, Photo>,
}

impl SceneRun {
    pub fn set(scene: Scene) -> Self {
        let cluster = Cluster::build(scene.text(0));
        for (host, lines) in scene.before {
            for line in *lines {
                let words: Vec<&str> = line.split(' ').collect();
                cluster.inside(&host.parse().unwrap(), words[0], &words[1..], "");
            }
        }
        let files = (0..scene.states.len())
            .map(|state| cluster.file(scene.states[state].0, scene.text(state)))
            .collect();
        let photos = BTreeMap::from([(0, cluster.photograph())]);
        Self { scene, cluster, state: 0, files, photos }
    }

    /// Command and file of a move.
    pub fn command(&self, go: Move) -> [&str; 2] {
        let Move { from, to } = go;
        if to == 0 { ["destroy", self.file(from)] } else { ["apply", self.file(to)] }
    }

    /// Moves there with nothing in the way, and sees that it is what it was the first time.
    pub fn walk(&mut self, to: usize) {
        let go = Move { from: self.state, to };
        let ended = self.cluster.lvsprov(&self.command(go));
        assert_eq!(ended.code, Some(0), "{:?} said:\n{ended}", self.command(go));
        self.state = to;
        let photo = self.cluster.photograph();
        if let Err(differences) = self.is(to, &photo) {
            panic!("{} is not what it was: {differences}", self.scene.states[to].0);
        }
        self.photos.entry(to).or_insert(photo);
    }

    /// Something else than [`SceneRun::walk`] has moved it there.
    pub fn arrived(&mut self, to: usize) {
        if let Err(lines) = self.is(to, &self.cluster.photograph()) {
            panic!("this is not {}: {lines}", self.scene.states[to].0);
        }
        self.state = to;
    }

    /// The file of a state.
    pub fn file(&self, state: usize) -> &str {
        self.files[state].to_str().unwrap()
    }

    /// Whether that is what a state was like the first time.
    pub fn is(&self, state: usize, photo: &Photo) -> Result<(), String> {
        let Some(known) = self.photos.get(&state) else { return Ok(()) };
        let lines = difference(known, photo);
        if lines.is_empty() { Ok(()) } else { Err(lines.join("\n  ")) }
    }
}
