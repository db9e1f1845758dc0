//! The accounts at the broker: passwords in files of their own, and the definitions that RabbitMQ loads.

use anyhow::{Context, Result, bail};
use base64::Engine;
use serde_json::Value;
use warren_api::NodeName;
use warren_broker::accounts::{Account, definitions, password_hash};
use warren_broker::{BrokerConfig, BrokerUrl, QueueType, RabbitFabric};
use warren_client::Connection;
use warren_process::Tasks;

use crate::files::{DataDir, make_dir, read_optional, write_atomically, write_private};

/// 192 bits, as 32 characters.
const PASSWORD_BYTES: usize = 24;

/// Makes the passwords that are missing and, for all accounts that have one, `broker/rabbitmq/definitions.json`. A file
/// that says the same already is kept byte for byte, so that a broker is not restarted for nothing.
pub(crate) fn ensure(data: &DataDir, nodes: &[String]) -> Result<()> {
    let mut accounts = vec![Account::Server, Account::Controllers, Account::Admin];
    // Nodes that got an account before keep it.
    let mut names: Vec<String> = known_nodes(data)?;
    names.extend(nodes.iter().cloned());
    names.sort();
    names.dedup();
    accounts.extend(names.into_iter().map(|name| Account::Node(NodeName(name.into()))));
    let mut with_passwords = Vec::new();
    for account in accounts {
        let password = password_of(data, &account.name())?;
        with_passwords.push((account, password));
    }
    let dir = data.broker().join("rabbitmq");
    let path = dir.join("definitions.json");
    let present = read_optional(&path)?.and_then(|text| serde_json::from_str(&text).ok());
    let wanted = definitions_like(&with_passwords, present.as_ref());
    if present.as_ref() != Some(&wanted) {
        make_dir(&dir)?;
        // Hashes only, and RabbitMQ reads it as a user of its own; the data folder around it is the owner's alone.
        write_atomically(&path, serde_json::to_string_pretty(&wanted)?.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// How a part reaches the broker. `what` shows in the management page.
pub(crate) fn broker_config(
    data: &DataDir,
    url: &str,
    account: &Account,
    what: &str,
) -> Result<BrokerConfig> {
    Ok(BrokerConfig {
        url: complete(data, url, account)?,
        queues: QueueType::default(),
        name: what.to_owned(),
    })
}

/// An address as given on the command line, completed with this part's account and password where it names none; of
/// several, each.
fn complete(data: &DataDir, url: &str, account: &Account) -> Result<BrokerUrl> {
    let addresses: Vec<String> =
        url.split(',').map(|one| complete_one(data, one.trim(), account)).collect::<Result<_>>()?;
    addresses.join(",").parse().context("--broker")
}

fn complete_one(data: &DataDir, url: &str, account: &Account) -> Result<String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        // Of a password with a comma in it, nothing is shown.
        let url = url.rsplit('@').next().unwrap_or_default();
        bail!(
            "--broker: {url:?} is not of the form amqp://host:port; several are given with commas between, and a comma in \
             a password is %2C"
        );
    };
    if names_account(url) {
        return Ok(url.to_owned());
    }
    let name = account.name();
    let path = data.broker().join(format!("{name}.password"));
    let password = read_optional(&path)?.with_context(|| {
        format!(
            "--broker names no account, and {} is not there; give amqp://account:password@host:port, or make accounts with \
             `warren init`",
            path.display()
        )
    })?;
    Ok(format!("{scheme}://{name}:{}@{rest}", password.trim()))
}

/// Whose messages are events: the server's account, or the one account that an address names for all parts. An address
/// with the part's own account names that alone.
pub(crate) fn server_account(url: &str, own: &Account) -> String {
    let named = url.parse::<BrokerUrl>().ok().filter(|_| names_account(url));
    let named = named.filter(|url| url.account() != own.name());
    named.map_or_else(|| Account::Server.name(), |url| url.account().to_owned())
}

/// RabbitMQ as a part reads from it.
pub(crate) fn fabric(
    data: &DataDir,
    url: &str,
    account: &Account,
    what: &str,
    queues: QueueType,
    tasks: &Tasks,
) -> Result<RabbitFabric> {
    let config = BrokerConfig { queues, ..broker_config(data, url, account, what)? };
    Ok(RabbitFabric::new(config, server_account(url, account), tasks))
}

/// The way to the API for a part that has nothing but a broker: there, it is who its account is.
pub(crate) fn over_amqp(fabric: RabbitFabric, account: &Account) -> Result<Connection> {
    let (own, used) = (account.name(), fabric.account());
    if own != used {
        bail!(
            "--amqp-only: the API knows this part by its account at the broker, which is {own:?}; --broker names {used:?}"
        );
    }
    Ok(Connection::over_amqp(fabric))
}

/// Whether an address says who logs in.
pub(crate) fn names_account(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().is_some_and(|authority| authority.contains('@'))
}

fn password_of(data: &DataDir, account: &str) -> Result<String> {
    let path = data.broker().join(format!("{account}.password"));
    if let Some(password) = read_optional(&path)? {
        let password = password.trim();
        if password.is_empty() {
            bail!("{}: is empty; remove it for a new password", path.display());
        }
        return Ok(password.to_owned());
    }
    let bytes: [u8; PASSWORD_BYTES] = rand::random();
    let password = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    write_private(&path, format!("{password}\n").as_bytes())?;
    Ok(password)
}

fn known_nodes(data: &DataDir) -> Result<Vec<String>> {
    let dir = data.broker();
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error).with_context(|| dir.display().to_string()),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let node = name.to_str().and_then(|name| {
            name.strip_prefix("node-").and_then(|name| name.strip_suffix(".password"))
        });
        names.extend(node.map(str::to_owned));
    }
    Ok(names)
}

/// The definitions, with the present hashes where they still belong to the passwords: salts are random.
fn definitions_like(accounts: &[(Account, String)], present: Option<&Value>) -> Value {
    let mut wanted = definitions(accounts);
    let present_hash = |name: &str| {
        let users = present?["users"].as_array()?;
        users.iter().find(|user| user["name"] == name)?["password_hash"].as_str()
    };
    if let Some(users) = wanted["users"].as_array_mut() {
        for (user, (account, password)) in users.iter_mut().zip(accounts) {
            let Some(hash) = present_hash(&account.name()) else { continue };
            if fits(password, hash) {
                user["password_hash"] = hash.into();
            }
        }
    }
    wanted
}

fn fits(password: &str, hash: &str) -> bool {
    let decoded = base64::engine::general_purpose::STANDARD.decode(hash).unwrap_or_default();
    decoded.first_chunk::<4>().is_some_and(|salt| password_hash(password, *salt) == hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        let definitions = data.broker().join("rabbitmq/definitions.json");
        ensure(&data, &["n1".to_owned()]).unwrap();
        let first = std::fs::read_to_string(&definitions).unwrap();
        ensure(&data, &[]).unwrap();
        assert_eq!(std::fs::read_to_string(&definitions).unwrap(), first, "kept byte for byte");
        let users = |text: &str| -> Vec<String> {
            let value: Value = serde_json::from_str(text).unwrap();
            let users = value["users"].as_array().unwrap();
            users.iter().map(|user| user["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(users(&first), ["server", "controllers", "admin", "node-n1"]);
        std::fs::remove_file(data.broker().join("admin.password")).unwrap();
        ensure(&data, &["n2".to_owned()]).unwrap();
        let third = std::fs::read_to_string(&definitions).unwrap();
        assert_eq!(users(&third), ["server", "controllers", "admin", "node-n1", "node-n2"]);
        let hash = |text: &str, n: usize| {
            serde_json::from_str::<Value>(text).unwrap()["users"][n]["password_hash"].clone()
        };
        assert_eq!(hash(&first, 0), hash(&third, 0));
        assert_ne!(hash(&first, 2), hash(&third, 2), "a new password");
    }

    #[test]
    fn events_are_the_servers() {
        let node = Account::Node(NodeName("a".into()));
        for (url, account) in [
            ("amqp://h", "server"),
            ("amqp://guest:x@h", "guest"),
            ("amqp://node-a:x@h", "server"),
            ("amqp://server:x@h", "server"),
        ] {
            assert_eq!(server_account(url, &node), account);
        }
    }

    #[test]
    fn an_address_without_an_account_gets_one() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        let complete = |url: &str| complete(&data, url, &Account::Server);
        assert!(
            complete("amqp://127.0.0.1:5672").unwrap_err().to_string().contains("server.password")
        );
        ensure(&data, &[]).unwrap();
        assert_eq!(complete("amqp://127.0.0.1:5672").unwrap().account(), "server");
        assert_eq!(complete("amqp://a:b@127.0.0.1:5672").unwrap().account(), "a");
        assert!(complete("127.0.0.1").is_err());
        let several = complete("amqp://a.example,amqp://b.example:5673").unwrap();
        assert_eq!(
            several.to_string(),
            "amqp://server@a.example:5672/,amqp://server@b.example:5673/"
        );
        let mixed = complete("amqp://a.example,amqp://x:y@b.example").unwrap_err();
        assert!(format!("{mixed:#}").contains("the same account"), "{mixed:#}");
        assert!(complete("amqp://a.example,").unwrap_err().to_string().contains("commas"));
    }
}
