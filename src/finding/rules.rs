//! Every rule that `check` can report: its code, its name, its severity, and what it finds.
//!
//! A code keeps its rule for ever: `tests/cases/codes.txt` pins both. A new rule takes the next free number, in the group
//! where a reader looks for it. docs/diagnostics.md has a page for each.

use super::Severity;

/// A rule that `check` can report.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// `LVS` and three digits.
    pub code: &'static str,
    /// In kebab-case, as [`super::Finding::rule`] has it.
    pub name: &'static str,
    /// The severities that its findings have, without `--deny`; the worst first.
    pub severities: &'static [Severity],
    /// What it finds.
    pub title: &'static str,
}

/// Rules that belong together.
#[derive(Debug)]
pub struct RuleGroup {
    /// The heading, as in docs/checks.md.
    pub title: &'static str,
    /// Its rules.
    pub rules: &'static [Rule],
}

macro_rules! rules {
    ($($group:literal { $($code:ident $name:literal [$($severity:ident),+] $title:literal;)+ })+) => {
        &[$(RuleGroup {
            title: $group,
            rules: &[$(Rule {
                code: stringify!($code),
                name: $name,
                severities: &[$(Severity::$severity),+],
                title: $title,
            }),+],
        }),+]
    };
}

/// All rules, in groups.
pub const GROUPS: &[RuleGroup] = rules! {
    "The way of a packet" {
        LVS001 "no-answer" [Error] "a request or reply that a host of the file would drop, whatever the reason; asked only where no other rule finds an error";
        LVS126 "large-packets-lost" [Warning] "large packets that do not fit on their way, and whose sender does not learn it: the connection hangs after the first kilobytes";
        LVS002 "dr-not-on-link" [Error] "a DR real server behind a router: DR rewrites the MAC address only";
        LVS003 "tun-no-route" [Error] "a director without a route to a TUN real server";
        LVS004 "fullnat-no-route" [Error] "a FULLNAT real server without a route to the director's address, or the reverse";
        LVS005 "nat-gateway" [Error] "a NAT real server whose gateway, or route to clients, is not the director: its replies keep the RIP as source";
        LVS006 "nat-client-on-link" [Error] "a NAT client in the real servers' subnet: replies go past the director";
        LVS007 "director-is-gateway" [Error] "the director as gateway of a DR or TUN real server, or as its next hop to clients, without being a router: it passes no replies on";
        LVS008 "vip-unreachable" [Error] "a client from which no way leads to the VIP; the cure names the route that is missing";
        LVS009 "no-way-back" [Error] "replies that do not reach the client; the cure names the route that is missing";
        LVS010 "router-not-reached" [Warning] "a router that needs a setting or a route, and that the file does not say how to reach";
        LVS011 "client-is-real-server" [Warning] "a client that is a real server too: its own requests are not balanced";
        LVS012 "family-without-client" [Warning] "a service of a family of which no client has an address: nothing can verify it";
    }
    "The VIP" {
        LVS013 "vip-is-own-address" [Error] "a VIP that the file puts on another host than the director: on a real server lvsprov does that itself, after the ARP settings";
        LVS014 "vip-on-two-directors" [Error] "one VIP on two directors";
        LVS015 "vip-prefix-differs" [Error] "one VIP with two prefix lengths";
        LVS016 "vip-interface-differs" [Error] "one VIP on two interfaces";
        LVS017 "vip-interface-unclear" [Error] "several interfaces that could have the VIP: write `vip_interface`";
        LVS018 "vip-mask-overlaps" [Error] "a prefix length that covers a subnet of another network";
        LVS019 "vip-wrong-network" [Error] "a VIP in a subnet of a network that its interface is not on";
        LVS020 "mask-on-lo" [Error] "an address with a subnet on `lo`: the whole subnet becomes local";
        LVS021 "mask-differs" [Warning] "an interface whose prefix length differs from that of its subnet";
        LVS022 "network-address" [Error] "the first address of an IPv4 subnet";
        LVS023 "broadcast-address" [Error] "the last address of an IPv4 subnet";
    }
    "Services and real servers" {
        LVS024 "duplicate-service" [Error] "two services with one protocol, VIP and port, or one mark";
        LVS025 "duplicate-real-server" [Error] "one real server twice in a service";
        LVS026 "duplicate-port" [Error] "one port twice in `ports`";
        LVS027 "duplicate-name" [Error] "two services with one name";
        LVS028 "port-mapping" [Error] "another port at the real server under DR or TUN, which rewrite none";
        LVS029 "port-any" [Error] "`port: any` without persistence: IPVS passes nothing on";
        LVS030 "all-weights-zero" [Warning] "a service that refuses every client";
        LVS031 "weights-ignored" [Warning] "different weights under a scheduler that ignores them";
        LVS032 "one-destination" [Warning] "`dh`, `lblc`, `lblcr`: everything goes to one real server";
        LVS033 "ftp-data" [Warning] "FTP under `dr` or `tun` with port 21 only, and no persistence: transfers fail";
        LVS034 "hash-without-fallback" [Warning] "`sh` or `mh` without the fallback flag, where clients would be refused";
        LVS035 "flag-of-other-scheduler" [Error] "a flag of `sh` or `mh` with another scheduler";
        LVS036 "flag-ignored" [Warning] "a flag that the scheduler does not read";
        LVS037 "ramp-without-effect" [Warning] "a `ramp` with a scheduler or weights that cannot grow";
        LVS038 "thresholds" [Error] "a lower threshold above the upper one, or without one";
        LVS039 "one-packet" [Error] "`one_packet` without UDP: the kernel ignores it";
        LVS040 "one-packet-nat" [Warning] "`one_packet` under NAT: replies keep the RIP as source";
        LVS041 "one-packet-persistent" [Warning] "`one_packet` with `persistence`, which goes first";
        LVS042 "engine-without-udp" [Error] "the engine `sip` for another protocol than UDP: IPVS drops its packets";
        LVS043 "mask-of-other-family" [Error] "an IPv4 mask for IPv6 persistence, or the reverse";
        LVS044 "mixed-families" [Error] "a real server of the other address family under NAT or DR";
        LVS045 "mixed-families-and-sync" [Error] "a real server of the other family beside a sync daemon";
        LVS046 "mark-overlaps" [Error] "a port whose packets another service's mark takes away";
        LVS047 "mark-without-vip" [Note] "a mark without a `vip`: other rules mark the packets, and take them to the director";
        LVS048 "mark-missing" [Error] "`marked_by` without `mark`";
        LVS049 "without-vip" [Error] "a key that needs a `vip`, without one";
        LVS050 "family-of-vip" [Error] "`family` beside a `vip`, which has one";
        LVS051 "several-protocols" [Error] "several protocols without a mark";
        LVS052 "port-and-ports" [Error] "both `port` and `ports`";
    }
    "Health checks" {
        LVS128 "check-contradicts" [Error] "keys of a check that contradict each other, or `weights: file` beside one";
        LVS129 "check-impossible" [Error] "a check that keepalived cannot carry out: a question that the protocol does not answer, no port, no VIP";
        LVS131 "quorum-unreachable" [Error] "a quorum above the sum of all weights, or a sorry server that is a real server";
        LVS132 "check-mark-taken" [Error] "a firewall mark of a service that a health check uses";
    }
    "Tunnels" {
        LVS053 "tunnel-unused" [Error] "a `tunnel` where nothing is tunnelled";
        LVS054 "tunnel-option" [Error] "an option that this type of tunnel does not have";
        LVS055 "unknown-tunnel" [Error] "another type than `ipip`, `gre`, `gue`";
        LVS056 "gue-port" [Error] "GUE without a port";
        LVS057 "gue-port-taken" [Error] "a GUE port that is also a service's UDP port on that host";
        LVS058 "gre-checksums-differ" [Error] "GRE with and without a checksum to one address: one device takes only one kind";
        LVS127 "sync-partner-unknown" [Warning] "a tunnel whose director has a sync daemon, and no other director in the file: real servers drop what that one wraps";
    }
    "IPVS beside its table" {
        LVS059 "ipvs-without-director" [Error] "`ipvs` under a host that is no director";
        LVS060 "setting-range" [Error] "a value that the kernel refuses or changes";
        LVS061 "setting-contradicts" [Error] "a setting that a forwarding method or persistence cannot work with";
        LVS062 "setting-without-effect" [Warning] "a setting that needs something else, such as a backup daemon";
        LVS063 "unknown-setting" [Error] "no setting of this name under `net.ipv4.vs`";
        LVS064 "sync-interface" [Error] "a sync daemon on an interface that the director does not have";
        LVS065 "sync-without-address" [Warning] "a sync daemon on an interface without an address of the group's family";
        LVS066 "idle-connections" [Warning, Note] "two timeouts for one connection; a warning where IPVS remembers longer than connection tracking";
        LVS067 "fullnat-hides-clients" [Note] "FULLNAT: real servers do not see the client's address";
    }
    "Hosts and networks" {
        LVS130 "drift-without-state" [Error] "`drift` where hosts keep nothing to compare with: `persist: false`, or a host that is not reached";
        LVS068 "no-director" [Error] "services, and no director";
        LVS069 "several-directors" [Error] "several directors, and a service that names none";
        LVS070 "role-missing" [Error] "a host that is named for a role it does not have";
        LVS071 "unused-host" [Warning] "a director or real server that no service uses";
        LVS072 "same-machine" [Error] "two hosts reached the same way";
        LVS073 "several-ways" [Error] "more than one of `ssh`, `local`, `netns`";
        LVS074 "bad-ssh" [Error] "text that ssh could take for an option";
        LVS075 "duplicate-address" [Error] "one address on two hosts";
        LVS076 "address-outside-network" [Error] "an address in no subnet of its network";
        LVS077 "no-network" [Error] "an interface that is on no network";
        LVS078 "two-networks" [Error] "an interface with addresses of two networks";
        LVS079 "network-on-lo" [Error] "a network for `lo` or a tunnel device";
        LVS080 "subnets-overlap" [Error] "subnets of two networks that overlap";
        LVS081 "rip-missing" [Error] "a real server without an address";
        LVS082 "rip-ambiguous" [Error] "a real server with several possible addresses: write `address`";
        LVS083 "rip-not-its-own" [Error] "an `address` that the real server does not have";
        LVS084 "own-gateway" [Error] "a host that is its own gateway, or the next hop of its own route";
        LVS085 "two-gateways" [Error] "two gateways of one family";
        LVS086 "gateway-not-on-link" [Error] "a gateway, or a route's next hop, that is no neighbour";
        LVS087 "gateway-ambiguous" [Error] "a gateway with several addresses next to the host";
        LVS121 "route-is-default" [Error] "a default route under `routes`: write `gateway`";
        LVS122 "duplicate-route" [Error] "two routes of one host to one destination";
        LVS123 "route-families-differ" [Error] "an IPv6 next hop of an IPv4 route, or the reverse";
        LVS124 "route-to-connected" [Error] "a route to a subnet or an address that the host has itself";
        LVS125 "route-via-no-router" [Warning] "a route by a host of the file that does not forward";
    }
    "Keys and values" {
        LVS088 "missing-key" [Error] "a key that lvsprov cannot derive is missing";
        LVS089 "unknown-key" [Error] "a key that has no meaning at its place";
        LVS090 "duplicate-key" [Error] "one key twice";
        LVS091 "bad-key" [Error] "a key that is no single value, or a merge key";
        LVS092 "unknown-name" [Error] "a host or network that the file does not have";
        LVS093 "unknown-forward" [Error] "a word that is no forwarding method";
        LVS094 "unknown-scheduler" [Error] "a word that is no scheduler";
        LVS095 "unknown-scheduler-flag" [Error] "a word that is no scheduler flag";
        LVS096 "unknown-protocol" [Error] "a word that is no protocol";
        LVS097 "unknown-role" [Error] "a word that is no role";
        LVS098 "unknown-engine" [Error] "a word that is no persistence engine";
        LVS099 "unknown-word" [Error] "a word outside of another closed set";
        LVS100 "unknown-version" [Error] "another format than version 1";
        LVS101 "wrong-type" [Error] "a list where a mapping belongs, and so on";
        LVS102 "empty-list" [Error] "a list without a value";
        LVS103 "bad-number" [Error] "a number in another notation, or out of range";
        LVS104 "bad-boolean" [Error] "another word than `true` and `false`";
        LVS105 "port-zero" [Error] "port 0";
        LVS106 "bad-address" [Error] "text that is no address of the kind that is needed";
        LVS107 "unusable-address" [Error] "an address that no host can have";
        LVS108 "prefix-missing" [Error] "an interface's address without a prefix length";
        LVS109 "subnet-has-host-bits" [Error] "an address where a subnet belongs";
        LVS110 "bad-name" [Error] "a name with a character that is not safe in paths and arguments";
        LVS111 "reserved-name" [Error] "a topology's name that lvsprov uses itself";
    }
    "YAML and comments" {
        LVS112 "yaml-syntax" [Error] "text that is not YAML";
        LVS113 "yaml-tag" [Error] "a YAML tag";
        LVS114 "yaml-alias" [Error] "an alias inside of the value that it refers to";
        LVS115 "second-document" [Error] "a second YAML document";
        LVS116 "empty-file" [Error] "a file without any value";
        LVS117 "too-deep" [Error] "values nested far deeper than the format needs";
        LVS118 "too-large" [Error] "a file far beyond any real cluster";
        LVS119 "unused-allow" [Warning] "a comment `lvsprov: allow` that silences nothing";
        LVS120 "bad-allow" [Error] "a comment `lvsprov: allow` without a known rule or without a reason";
    }
};

/// Every rule, in the order of [`GROUPS`].
pub fn all() -> impl Iterator<Item = &'static Rule> {
    GROUPS.iter().flat_map(|group| group.rules)
}

/// The rule with this code, in upper or lower case, or with this name.
pub fn find(word: &str) -> Option<&'static Rule> {
    all().find(|rule| rule.name == word || rule.code.eq_ignore_ascii_case(word))
}

/// Whether the word is `LVS` and digits, as every code is, known or not.
pub fn looks_like_code(word: &str) -> bool {
    let digits = word.get(..3).filter(|it| it.eq_ignore_ascii_case("LVS")).map(|_| &word[3..]);
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// Rules whose code or name `word` may misspell, the likeliest first; at most three.
pub fn nearest(word: &str) -> Vec<&'static Rule> {
    /// Longer words resemble no rule; comparing them would only take time.
    const LONGEST: usize = 40;
    let word = word.to_lowercase().replace('_', "-");
    if word.len() > LONGEST {
        return Vec::new();
    }
    let allowed = if looks_like_code(&word) { 1 } else { (word.len() / 3).max(1) };
    let distance = |known: &str| strsim::damerau_levenshtein(&word, known);
    let mut near: Vec<(usize, &Rule)> = all()
        .map(|rule| (distance(&rule.code.to_lowercase()).min(distance(rule.name)), rule))
        .filter(|(distance, _)| *distance <= allowed)
        .collect();
    near.sort_by_key(|(distance, _)| *distance);
    near.into_iter().take(3).map(|(_, rule)| rule).collect()
}

/// No rule has this code or name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no rule {word:?}; {}", self.cure())]
pub struct UnknownRule {
    /// The code or name.
    pub word: String,
}

impl UnknownRule {
    /// The nearest rules, or where all of them are listed.
    pub fn cure(&self) -> String {
        let near: Vec<String> = nearest(&self.word).iter().map(ToString::to_string).collect();
        match near.split_last() {
            None => "`lvsprov explain --list` lists all rules".to_owned(),
            Some((only, [])) => format!("did you mean {only}?"),
            Some((last, rest)) => format!("did you mean {} or {last}?", rest.join(", ")),
        }
    }
}

impl std::str::FromStr for &'static Rule {
    type Err = UnknownRule;

    fn from_str(word: &str) -> Result<Self, UnknownRule> {
        find(word).ok_or_else(|| UnknownRule { word: word.to_owned() })
    }
}

impl std::fmt::Display for Rule {
    /// `LVS001 no-answer`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code, self.name)
    }
}
