//! Asks the kernel what it would do with a packet, without sending one: RTM_GETROUTE, with an input interface also input
//! routing and source validation (net/ipv4/route.c, `inet_rtm_getroute`; net/ipv6/route.c, `inet6_rtm_getroute`).

use std::net::IpAddr;

use futures_util::TryStreamExt;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;

use super::routes::ip;
use super::{LinksByIndex, Net, errno_of, refused};
use crate::kernel::error::{Error, Result};
use crate::state::examination::{RouteAnswer, RouteQuestion, RouteRefusal};

impl Net {
    /// The kernel's answer to each question.
    pub async fn lookups(&self, questions: &[RouteQuestion]) -> Result<Vec<RouteAnswer>> {
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        let links = self.links().await?;
        let mut answers = Vec::with_capacity(questions.len());
        for question in questions {
            answers.push(match self.lookup(&links, question).await {
                Ok(answer) => answer,
                Err(error) => RouteAnswer::NotAsked(error.to_failure()),
            });
        }
        Ok(answers)
    }

    async fn lookup(&self, links: &LinksByIndex, question: &RouteQuestion) -> Result<RouteAnswer> {
        let request = message(links, question)?;
        let answer = self.handle.route().get(request).execute().try_next().await;
        match answer {
            Ok(Some(message)) => Ok(read(links, &message)),
            Ok(None) => Err(Error::new(format!("no answer to `{question}`"))),
            Err(error) => match errno_of(&error).map(refusal) {
                Some(Some(refusal)) => Ok(RouteAnswer::Refused(refusal)),
                _ => Err(refused(format!("cannot ask `{question}`"), error)),
            },
        }
    }
}

fn message(links: &LinksByIndex, question: &RouteQuestion) -> Result<RouteMessage> {
    let RouteQuestion { dev, source, target, mark } = question;
    let length = |address: &IpAddr| if address.is_ipv4() { 32 } else { 128 };
    let builder = RouteMessageBuilder::<IpAddr>::new();
    let mut builder = builder
        .destination_prefix(*target, length(target))
        .map_err(|error| Error::new(format!("cannot ask about {target}")).because(error))?;
    if let Some(dev) = dev {
        let index = links.iter().find(|(_, link)| link.name == *dev).map(|(index, _)| *index);
        let index = index.ok_or_else(|| Error::new(format!("there is no interface {dev}")))?;
        builder = builder.input_interface(index);
    }
    if *mark != 0 {
        builder = builder.mark(*mark);
    }
    let mut message = builder.build();
    if let Some(source) = source {
        message.attributes.push(RouteAttribute::Source((*source).into()));
        message.header.source_prefix_length = length(source);
    }
    Ok(message)
}

fn read(links: &LinksByIndex, message: &RouteMessage) -> RouteAnswer {
    match message.header.kind {
        RouteType::Local | RouteType::Anycast | RouteType::Broadcast => return RouteAnswer::Local,
        RouteType::Unicast => {}
        RouteType::Prohibit => return RouteAnswer::Refused(RouteRefusal::Prohibited),
        RouteType::Unreachable => return RouteAnswer::Refused(RouteRefusal::Unreachable),
        other => {
            return RouteAnswer::Refused(RouteRefusal::Other(format!("{other:?}").to_lowercase()));
        }
    }
    let (mut dev, mut gateway) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => dev = links.get(index).map(|link| link.name.clone()),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            _ => {}
        }
    }
    RouteAnswer::Sent { dev, gateway }
}

/// What an errno says about the packet; `None`: it is about the question.
fn refusal(errno: Errno) -> Option<RouteRefusal> {
    Some(match errno {
        Errno::EXDEV => RouteRefusal::SourceValidation,
        Errno::EINVAL => RouteRefusal::Martian,
        Errno::EHOSTUNREACH => RouteRefusal::Unreachable,
        Errno::ENETUNREACH => RouteRefusal::NoRoute,
        Errno::EACCES => RouteRefusal::Prohibited,
        _ => return None,
    })
}
