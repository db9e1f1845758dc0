//! Where the streams stand, for readers of events: what they ask with any request, and are told with its answer.

use http::{HeaderMap, HeaderName, HeaderValue, Response};
use warren_api::{Reason, Shard, Status};
use warren_broker::heads::{ASK, Asked, TOLD};
use warren_broker::{Heads, Stream};

use crate::api::Api;
use crate::authn::{self, CONTROLLERS, MASTERS, User};
use crate::commit::INTERNAL_GROUP;

const ASK_HEADER: HeaderName = HeaderName::from_static(ASK);
const TOLD_HEADER: HeaderName = HeaderName::from_static(TOLD);

/// What a request asks for; before anything is done for it, so that a wrong header changes nothing.
pub(crate) fn asked(headers: &HeaderMap, user: Option<&User>) -> Result<Option<Asked>, Status> {
    let Some(header) = headers.get(ASK_HEADER) else { return Ok(None) };
    let user = user.ok_or_else(authn::unauthorized)?;
    let text = header.to_str().unwrap_or("\u{fffd}");
    let asked = Asked::parse(text)
        .map_err(|error| Status::bad_request(format!("header {ASK}: Invalid value: {error}")))?;
    let allowed = match &asked {
        Asked::Node { name, .. } => user.is_in(MASTERS) || user.as_node() == Some(&*name.0),
        Asked::Resources(_) => user.is_in(MASTERS) || user.is_in(CONTROLLERS),
    };
    if !allowed {
        let why = format!("forbidden: User {:?} cannot ask for {asked} in header {ASK}", user.name);
        return Err(Status {
            details: Some(Box::default()),
            ..Status::new(Reason::Forbidden, why)
        });
    }
    Ok(Some(asked))
}

/// Adds the answer. What the request itself wrote is in it.
pub(crate) fn tell<B>(api: &Api, asked: &Asked, response: &mut Response<B>) {
    if let Asked::Node { name, lost: true } = asked
        && let Some(broker) = api.broker.get()
    {
        broker.look_at(name);
    }
    if let Ok(value) = HeaderValue::from_str(&heads(api, asked).to_string()) {
        api.metrics.heads_told.inc();
        response.headers_mut().insert(TOLD_HEADER, value);
    }
}

fn heads(api: &Api, asked: &Asked) -> Heads {
    // Read before the heads: what is confirmed was committed before.
    let published = api.journal.relay_cursor();
    let streams = match asked {
        Asked::Node { name, .. } => {
            let shards = [Shard::Node(name.clone()), Shard::All];
            let mut heads = api.journal.heads(&shards);
            // What is no kind any more is not published.
            heads.retain(|(resource, ..)| {
                &*resource.group != INTERNAL_GROUP
                    && api.registry.by_group_resource(resource).is_some()
            });
            heads
        }
        Asked::Resources(resources) => {
            let head = |resource| api.journal.head(resource, &Shard::Every);
            let all = resources.iter().map(|of| (of.clone(), Shard::Every, head(of)));
            all.filter(|(resource, _, head)| {
                head.0 > 0 && api.registry.by_group_resource(resource).is_some()
            })
            .collect()
        }
    };
    let streams = streams
        .into_iter()
        .map(|(resource, shard, head)| (Stream { resource, shard }, head))
        .collect();
    Heads { epoch: api.journal.epoch(), published, streams }
}
