//! Who may do what at the broker, as data; and the definitions file that RabbitMQ loads it from. Pure but for salts.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use warren_api::NodeName;

use crate::topology;

/// An account at the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// Declares what is shared, publishes events, reads commands.
    Server,
    /// Declares its own queues, reads events.
    Controllers,
    /// A person at the management page: everything.
    Admin,
    /// Reads its own queue, writes to the API and its own replies, and configures nothing.
    Node(NodeName),
}

/// Regular expressions over names of exchanges and queues, as RabbitMQ matches them. `amq.default` is the exchange
/// without a name, which reaches every queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    pub configure: String,
    pub write: String,
    pub read: String,
}

impl Account {
    /// As in the file `broker/<account>.password`.
    pub fn name(&self) -> String {
        match self {
            Account::Server => topology::SERVER_ACCOUNT.to_owned(),
            Account::Controllers => "controllers".to_owned(),
            Account::Admin => "admin".to_owned(),
            Account::Node(node) => topology::node_account(node),
        }
    }

    pub fn permissions(&self) -> Permissions {
        let permissions = |configure: &str, write: &str, read: &str| Permissions {
            configure: configure.to_owned(),
            write: write.to_owned(),
            read: read.to_owned(),
        };
        match self {
            Account::Server => permissions(
                r"^(warren\.|node\.)",
                r"^(warren\.|node\.|amq\.default$)",
                r"^(warren\.|node\.)",
            ),
            Account::Controllers => permissions(
                r"^controllers\.",
                r"^(controllers\.|warren\.api$)",
                r"^(controllers\.|warren\.events$)",
            ),
            Account::Admin => permissions(".*", ".*", ".*"),
            Account::Node(node) => {
                let own = format!("^{}$", escape(&topology::node_queue(node)));
                permissions("^$", r"^warren\.(api|replies)$", &own)
            }
        }
    }

    /// For topic exchanges: exchange, write, read.
    fn topic_permissions(&self) -> Option<(&'static str, String, &'static str)> {
        match self {
            Account::Node(node) => {
                let own = format!(r"^{}\.", escape(&reply_word(node)));
                Some((topology::REPLIES, own, "^$"))
            }
            _ => None,
        }
    }

    fn tags(&self) -> &'static [&'static str] {
        match self {
            Account::Admin => &["administrator"],
            _ => &[],
        }
    }
}

/// The first word of the routing keys that a node's replies on `warren.replies` have; no other is allowed to it.
pub fn reply_word(node: &NodeName) -> String {
    topology::word(&topology::node_account(node))
}

/// What RabbitMQ loads at its start (`load_definitions`), or later by `rabbitmqctl import_definitions` or the management
/// page's import, which adds to what is there: one account alone may be given. With it, no `guest` is made.
pub fn definitions(accounts: &[(Account, String)]) -> Value {
    let user = |(account, password): &(Account, String)| {
        json!({
            "name": account.name(),
            "password_hash": password_hash(password, rand::random()),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": account.tags(),
        })
    };
    let permission = |(account, _): &(Account, String)| {
        let Permissions { configure, write, read } = account.permissions();
        json!({
            "user": account.name(), "vhost": "/",
            "configure": configure, "write": write, "read": read,
        })
    };
    let topic = |(account, _): &(Account, String)| {
        let (exchange, write, read) = account.topic_permissions()?;
        Some(json!({
            "user": account.name(), "vhost": "/",
            "exchange": exchange, "write": write, "read": read,
        }))
    };
    json!({
        "vhosts": [{"name": "/"}],
        "users": accounts.iter().map(user).collect::<Vec<_>>(),
        "permissions": accounts.iter().map(permission).collect::<Vec<_>>(),
        "topic_permissions": accounts.iter().filter_map(topic).collect::<Vec<_>>(),
    })
}

/// As RabbitMQ stores it: base64 of the salt and the SHA-256 of salt and password.
pub fn password_hash(password: &str, salt: [u8; 4]) -> String {
    let hash = Sha256::new().chain_update(salt).chain_update(password.as_bytes()).finalize();
    STANDARD.encode([&salt[..], &hash[..]].concat())
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_ascii_alphanumeric() && c.is_ascii() {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_node_may_do_little() {
        let account = Account::Node(NodeName("a.b".into()));
        let Permissions { configure, write, read } = account.permissions();
        let topic = account.topic_permissions().unwrap();
        expect![[r#"
            node-a.b: ^$ | ^warren\.(api|replies)$ | ^node\.a\.b$
            ("warren.replies", "^node\\-a\\_b\\.", "^$")"#]]
        .assert_eq(&format!("{}: {configure} | {write} | {read}\n{topic:?}", account.name()));
    }

    /// The example of RabbitMQ's documentation on passwords.
    #[test]
    fn a_hash_is_rabbitmqs() {
        assert_eq!(
            password_hash("test12", [0x90, 0x8d, 0xc6, 0x0a]),
            "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
        );
    }

    #[test]
    fn passwords_are_not_in_the_definitions() {
        let accounts = [Account::Server, Account::Admin].map(|a| (a, "s3cret".to_owned()));
        let text = definitions(&accounts).to_string();
        assert!(!text.contains("s3cret") && text.contains(r#""tags":["administrator"]"#));
    }
}
