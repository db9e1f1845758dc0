//! Where the broker is: one address, or those of a cluster's nodes.

use std::fmt;
use std::str::FromStr;

use lapin::uri::{AMQPScheme, AMQPUri};

use super::HEARTBEAT_SECONDS;
use crate::error::BrokerError;

/// Nodes of a RabbitMQ cluster that a process may know.
const MAX_ADDRESSES: usize = 16;

/// `amqp://account:password@host:port/vhost`, or several of these with commas between: nodes of one RabbitMQ
/// cluster, with the same account and virtual host. The password never shows in Debug and Display.
#[derive(Clone)]
pub struct BrokerUrl(Vec<AMQPUri>);

impl FromStr for BrokerUrl {
    type Err = BrokerError;

    fn from_str(s: &str) -> Result<Self, BrokerError> {
        let uris: Vec<AMQPUri> = s.split(',').map(address).collect::<Result<_, _>>()?;
        let same = |a: &AMQPUri, b: &AMQPUri| {
            (&a.vhost, &a.authority.userinfo.username) == (&b.vhost, &b.authority.userinfo.username)
        };
        if uris.windows(2).any(|pair| !same(&pair[0], &pair[1])) {
            return Err(BrokerError::Url(
                "several addresses are nodes of one cluster, with the same account and virtual host"
                    .to_owned(),
            ));
        }
        if uris.len() > MAX_ADDRESSES {
            return Err(BrokerError::Url(format!("at most {MAX_ADDRESSES} addresses")));
        }
        Ok(Self(uris))
    }
}

fn address(s: &str) -> Result<AMQPUri, BrokerError> {
    // The parser's message may repeat what was given; the password must not come back in it.
    let mut uri: AMQPUri = s.trim().parse().map_err(|_| {
        BrokerError::Url(
            "must be amqp://account:password@host:port/vhost, several with commas between (a comma in a \
             password is %2C)"
                .to_owned(),
        )
    })?;
    // The client was built without TLS and would say everything, the password too, in the clear.
    if uri.scheme == AMQPScheme::AMQPS {
        return Err(BrokerError::Url(
            "amqps:// is not supported yet; use amqp:// over a network or a tunnel that keeps it private"
                .to_owned(),
        ));
    }
    if s.contains("://[") || s.contains("@[") {
        return Err(BrokerError::Url(
            "an IPv6 address is not supported here; use a name that resolves to it".to_owned(),
        ));
    }
    // No path, and the path `/`, which AMQP reads as a virtual host without a name, mean the default one.
    if uri.vhost.is_empty() {
        uri.vhost = "/".to_owned();
    }
    uri.query.heartbeat = Some(uri.query.heartbeat.unwrap_or(HEARTBEAT_SECONDS));
    Ok(uri)
}

impl BrokerUrl {
    /// The account that this logs in as.
    pub fn account(&self) -> &str {
        self.0.first().map_or("", |uri| &uri.authority.userinfo.username)
    }

    /// How many addresses there are.
    pub(super) fn addresses(&self) -> usize {
        self.0.len()
    }

    pub(super) fn first(&self) -> AMQPUri {
        self.0.first().cloned().unwrap_or_default()
    }

    /// The `n`-th address, from the first again after the last.
    pub(super) fn nth(&self, n: usize) -> Self {
        Self(self.0.iter().cycle().skip(n % self.0.len().max(1)).take(1).cloned().collect())
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, AMQPUri { scheme, authority, vhost, .. }) in self.0.iter().enumerate() {
            let vhost = vhost.strip_prefix('/').unwrap_or(vhost);
            let account = &authority.userinfo.username;
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{scheme}://{account}@{}:{}/{vhost}", authority.host, authority.port)?;
        }
        Ok(())
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_keeps_its_password_to_itself() {
        let url: BrokerUrl = "amqp://node-a:s3cret@127.0.0.1:5673/%2f".parse().unwrap();
        assert_eq!(url.account(), "node-a");
        assert_eq!(format!("{url} {url:?}"), {
            let shown = "amqp://node-a@127.0.0.1:5673/";
            format!("{shown} BrokerUrl({shown})")
        });
        let with_tls = "amqps://a:s3cret@b";
        assert!(with_tls.parse::<BrokerUrl>().unwrap_err().to_string().contains("not supported"));
        for bad in
            [with_tls, "http://a:s3cret@b", "amqp//a:s3cret", "s3cret", "amqp://a:s3cret@[::1]:1/"]
        {
            let error = bad.parse::<BrokerUrl>().unwrap_err().to_string();
            assert!(error.starts_with("broker URL: ") && !error.contains("s3cret"), "{error}");
        }
        let vhost = |s: &str| s.parse::<BrokerUrl>().unwrap().0.remove(0).vhost;
        assert_eq!([vhost("amqp://h"), vhost("amqp://h/"), vhost("amqp://h/x")], ["/", "/", "x"]);
    }

    #[test]
    fn several_addresses_are_one_cluster() {
        let url: BrokerUrl =
            "amqp://n:s3cret@a:1,amqp://n:s3cret@b, amqp://n:s3cret@c:5671/".parse().unwrap();
        assert_eq!(url.to_string(), "amqp://n@a:1/,amqp://n@b:5672/,amqp://n@c:5671/");
        let shown: Vec<String> = (0..4).map(|n| url.nth(n).to_string()).collect();
        assert_eq!(
            shown,
            ["amqp://n@a:1/", "amqp://n@b:5672/", "amqp://n@c:5671/", "amqp://n@a:1/"]
        );
        assert_eq!(url.nth(usize::MAX).addresses(), 1);
        for bad in [
            "amqp://n:s3cret@a,amqp://m:s3cret@b",
            "amqp://n:s3cret@a/x,amqp://n:s3cret@b/y",
            "amqp://n:s3cret@a,",
            "amqp://n:s3cret@a,amqps://n:s3cret@b",
            "amqp://n:s3,cret@a",
            &["amqp://n:s3cret@a"; MAX_ADDRESSES + 1].join(","),
        ] {
            let error = bad.parse::<BrokerUrl>().unwrap_err().to_string();
            assert!(error.starts_with("broker URL: ") && !error.contains("s3cret"), "{error}");
        }
    }
}
