//! Who asks: a client certificate's CN and O, or nobody.

use std::sync::Arc;

use http::HeaderMap;
use warren_api::{NodeName, Reason, Status};

use crate::authz;

pub(crate) const MASTERS: &str = "system:masters";
pub(crate) const CONTROLLERS: &str = "system:controllers";
pub(crate) const NODES: &str = "system:nodes";
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
pub(crate) const NODE_PREFIX: &str = "system:node:";
pub(crate) const BROKER_PREFIX: &str = "system:broker:";
pub(crate) const BROKER_ANONYMOUS: &str = "system:broker-anonymous";
/// The server itself, where it removes Events whose time is over. No certificate and no request can be it.
pub(crate) const EVENT_TTL: &str = "system:apiserver:event-ttl";

/// Who speaks, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
    /// The node that handed in a command of a broker's account: the account may then touch that node's pods only.
    pub via_node: Option<NodeName>,
}

impl User {
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        groups.push(AUTHENTICATED.to_owned());
        Self { name: name.into(), groups, via_node: None }
    }

    /// May do everything; `system:masters`.
    pub fn admin(name: impl Into<String>) -> Self {
        Self::new(name, &[MASTERS])
    }

    pub fn controllers() -> Self {
        Self::new("system:controllers", &[CONTROLLERS])
    }

    pub fn node(name: &str) -> Self {
        Self::new(format!("{NODE_PREFIX}{name}"), &[NODES])
    }

    /// An account that the broker vouched for, or nobody, asking through `warren.commands`.
    pub fn broker(account: Option<&str>) -> Self {
        match account {
            Some(account) => Self::new(format!("{BROKER_PREFIX}{account}"), &[]),
            None => Self::new(BROKER_ANONYMOUS, &[]),
        }
    }

    pub(crate) fn event_ttl() -> Self {
        Self { name: EVENT_TTL.to_owned(), groups: Vec::new(), via_node: None }
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node that this is, by its certificate.
    pub(crate) fn as_node(&self) -> Option<&str> {
        self.is_in(NODES).then(|| self.name.strip_prefix(NODE_PREFIX)).flatten()
    }

    pub(crate) fn is_broker(&self) -> bool {
        self.name.starts_with(BROKER_PREFIX) || self.name == BROKER_ANONYMOUS
    }
}

/// The user of a verified client certificate; `None` where it names nobody.
pub(crate) fn user_of_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    // A certificate cannot claim to be a broker's account or the server's housekeeping: those names are the server's
    // to give.
    let reserved = name.starts_with(BROKER_PREFIX) || name == BROKER_ANONYMOUS || name == EVENT_TTL;
    (!name.is_empty() && !reserved).then(|| User::new(name, &groups))
}

/// The user of a request: the connection's, or the one that it may impersonate. `Ok(None)` is anonymous.
pub(crate) fn authenticate(
    connection: Option<&Arc<User>>,
    headers: &HeaderMap,
) -> Result<Option<Arc<User>>, Status> {
    let Some(user) = connection else {
        if headers.contains_key(http::header::AUTHORIZATION) {
            return Err(unauthorized());
        }
        return Ok(None);
    };
    let Some(wanted) = headers.get("impersonate-user") else {
        if headers.contains_key("impersonate-group") || headers.contains_key("impersonate-uid") {
            return Err(Status::bad_request(
                "requested groups or uid to impersonate without impersonating a user",
            ));
        }
        return Ok(Some(Arc::clone(user)));
    };
    let wanted = wanted
        .to_str()
        .map_err(|_| Status::bad_request("the header Impersonate-User is not printable ASCII"))?;
    let groups: Vec<&str> =
        headers.get_all("impersonate-group").iter().filter_map(|g| g.to_str().ok()).collect();
    authz::may_impersonate(user, wanted, &groups)?;
    let mut impersonated = User::new(wanted, &groups);
    if impersonated.is_broker() {
        impersonated.via_node = user.as_node().map(|node| NodeName(node.into()));
    }
    Ok(Some(Arc::new(impersonated)))
}

pub(crate) fn unauthorized() -> Status {
    Status::new(Reason::Unauthorized, "Unauthorized")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impersonation_is_for_masters_and_for_nodes_that_hand_in_commands() {
        let who = |user: User, wanted: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("impersonate-user", wanted.parse().unwrap());
            authenticate(Some(&Arc::new(user)), &headers).map(Option::unwrap)
        };
        assert_eq!(who(User::admin("admin"), "jane").unwrap().name, "jane");
        let via = who(User::node("a"), "system:broker:mq").unwrap();
        assert_eq!(via.via_node, Some(NodeName("a".into())));
        assert_eq!(who(User::node("a"), "jane").unwrap_err().reason, Reason::Forbidden);
        assert_eq!(who(User::controllers(), "jane").unwrap_err().reason, Reason::Forbidden);
        assert_eq!(authenticate(None, &HeaderMap::new()), Ok(None));
    }
}
