//! An agent on this machine: a child process, in the present network namespace or in another.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;

use sha2::{Digest, Sha256};
use tokio::process::Command;
use tokio::time::timeout;

use super::agent_stream::{AgentProcess, AgentStream};
use super::greeting::GreetingMark;
use super::{HostlessError, Options, TransportErrorKind, greet, no_greeting};
use crate::protocol::STATE_DIR;
use crate::visible::hex;

/// Starts an agent and waits for its hello.
pub(super) async fn open(
    netns: Option<&Path>,
    options: &Options,
) -> Result<AgentStream, HostlessError> {
    let mut agent = start(netns, options)?;
    match timeout(options.hello_timeout, first_word(&mut agent)).await {
        Ok(Ok(())) => Ok(agent),
        Ok(Err(kind)) => {
            agent.kill_unheard();
            // It prints the same reason on standard error, sooner or later.
            let stderr = match kind {
                TransportErrorKind::AgentFailed { .. } => String::new(),
                _ => agent.stderr().await,
            };
            Err(HostlessError { kind, stderr })
        }
        Err(_) => {
            agent.kill_unheard();
            let kind = TransportErrorKind::HelloTimeout {
                limit: options.hello_timeout,
                chatter: agent.chatter(),
            };
            Err(HostlessError { kind, stderr: agent.stderr().await })
        }
    }
}

async fn first_word(agent: &mut AgentStream) -> Result<(), TransportErrorKind> {
    match agent.mark().await {
        Ok(GreetingMark::Hello) => greet(agent).await.map(drop),
        Ok(GreetingMark::Failed { reason }) => Err(TransportErrorKind::AgentFailed { reason }),
        Ok(other) => {
            Err(TransportErrorKind::NotAnAgent { chatter: other.to_string().trim_end().to_owned() })
        }
        Err(none) => Err(no_greeting(agent, none).await),
    }
}

fn start(netns: Option<&Path>, options: &Options) -> Result<AgentStream, HostlessError> {
    let program = options.agent_binary.clone().unwrap_or_else(|| "/proc/self/exe".into());
    let failed = |source| TransportErrorKind::Start { program: program.clone(), source };
    let mut child = Command::new(&program)
        .args(arguments(netns, options))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C on the terminal is for the controller: the agent ends between two requests, when
        // its input does, not in the middle of a step.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
        return Err(failed(io::Error::other("it has no pipes")).into());
    };
    Ok(AgentStream::new(AgentProcess::Child(Box::new(child)), stdin, stdout, stderr))
}

fn arguments(netns: Option<&Path>, options: &Options) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["agent".into()];
    let base = options.state_dir.clone().unwrap_or_else(|| STATE_DIR.into());
    let state_dir = match netns {
        Some(path) => {
            arguments.extend(["--netns".into(), path.into()]);
            state_dir_of(&base, path)
        }
        None => base,
    };
    arguments.extend(["--state-dir".into(), state_dir.into()]);
    arguments
}

/// Where the receipts of a namespace lie: two namespaces of one machine must not share any.
pub fn state_dir_of(base: &Path, netns: &Path) -> PathBuf {
    let named = netns.strip_prefix("/run/netns").or_else(|_| netns.strip_prefix("/var/run/netns"));
    if let Ok(name) = named {
        let mut parts = name.components();
        if let (Some(Component::Normal(name)), None) = (parts.next(), parts.next()) {
            return base.join("netns").join(name);
        }
    }
    let digest = Sha256::digest(netns.as_os_str().as_encoded_bytes());
    base.join("netns-by-path").join(hex(&digest[..16]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_never_share_a_state_folder() {
        let base = Path::new("/var/lib/lvsprov");
        let of = |path: &str| state_dir_of(base, Path::new(path));
        assert_eq!(of("/run/netns/web1"), base.join("netns/web1"));
        assert_eq!(of("/var/run/netns/web1"), base.join("netns/web1"));
        let paths =
            ["/run/netns", "/run/netns/../x", "/run/netns/a/b", "/proc/7/fd/3", "/proc/7/fd/4"];
        for (at, one) in paths.iter().enumerate() {
            assert!(of(one).starts_with(base.join("netns-by-path")), "{one}");
            for other in &paths[at + 1..] {
                assert_ne!(of(one), of(other));
            }
        }
    }
}
