//! Random clusters, each of a seed: routers, directors, real servers and clients on a few networks, with routes that mostly lead
//! where they should, and services of every forwarding method. Most are valid; some have what `check` refuses.

pub mod dice;
mod draft;
mod services;

use std::collections::BTreeMap;

use dice::Dice;
use draft::Draft;

/// A cluster, and how its hosts are beforehand.
#[derive(Debug, Clone)]
pub struct RandomCluster {
    /// What it was made of.
    pub seed: u64,
    /// The topology file.
    pub text: String,
    /// `net.ipv4.conf.all.rp_filter` of each host before the file is applied.
    pub rp_filter: BTreeMap<String, u8>,
}

/// The cluster of `seed`. A change of the generator gives other clusters: the record keeps their texts.
pub fn random_cluster(seed: u64) -> RandomCluster {
    let mut dice = Dice::new(seed);
    let mut draft = Draft::roll(&mut dice);
    let services = services::roll(&mut draft, &mut dice);
    draft.roll_routes(&mut dice);
    let rp_filter = draft.hosts.iter().map(|host| (host.name.clone(), dice.one_of(&[0, 1, 1, 2])));
    let rp_filter = rp_filter.collect();
    let text = format!("{}services:\n{services}", draft.text(seed));
    RandomCluster { seed, text, rp_filter }
}
