//! `warren init`: identities of a cluster on this machine.

use std::path::PathBuf;

use anyhow::{Result, bail};
use jiff::Timestamp;

use crate::files::{DataDir, read_optional, write_atomically};
use crate::pki::{Leaf, Material, Outcome, Pki, hostname, write_kubeconfig};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The data folder.
    #[arg(long, env = "WARREN_DATA_DIR", default_value_os_t = DataDir::default_path())]
    data_dir: PathBuf,
    /// Nodes that get a certificate, a kubeconfig and a broker account.
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    /// Where clients find the API.
    #[arg(long, env = "WARREN_SERVER", default_value = "https://127.0.0.1:6443")]
    server: String,
    /// More names or addresses in the API's certificate.
    #[arg(long = "san", value_name = "NAME")]
    names: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let data = DataDir::new(&args.data_dir);
    data.prepare()?;
    for node in &args.nodes {
        check_node_name(node)?;
    }
    let identities = identities(&data, &args.nodes, &args.names)?;
    for (name, outcome) in &identities.outcomes {
        match outcome {
            Outcome::Kept => crate::say!("certificate {name}: kept"),
            Outcome::Made(reason) => crate::say!("certificate {name}: made ({reason})"),
        }
    }
    kubeconfigs(&data, &args.server, &identities)?;
    crate::accounts::ensure(&data, &args.nodes)?;
    cluster_id(&data)?;
    crate::say!("kubeconfig: {}", data.kubeconfig("admin").display());
    Ok(())
}

/// What the parts of a cluster need to know each other.
pub(crate) struct Identities {
    pub(crate) ca: PathBuf,
    pub(crate) apiserver: Material,
    pub(crate) apiserver_node: Material,
    ca_pem: String,
    clients: Vec<(Leaf, Material)>,
    outcomes: Vec<(String, Outcome)>,
}

impl Identities {
    /// A node's certificate, for its own port.
    pub(crate) fn node(&self, name: &str) -> Option<&Material> {
        let file = format!("node-{name}");
        let mut clients = self.clients.iter();
        clients.find(|(leaf, _)| leaf.identity() == file).map(|(_, material)| material)
    }
}

/// Makes or keeps the certificates of all parts. `names`: by which else the API is reached.
pub(crate) fn identities(data: &DataDir, nodes: &[String], names: &[String]) -> Result<Identities> {
    let pki = Pki::open(data, Timestamp::now())?;
    let mut outcomes = Vec::new();
    let mut ensure = |leaf: &Leaf| -> Result<Material> {
        let (material, outcome) = pki.ensure(leaf)?;
        if let Outcome::Made(reason) = outcome {
            tracing::info!(certificate = leaf.identity(), reason, "made a certificate");
        }
        outcomes.push((leaf.identity().to_owned(), outcome));
        Ok(material)
    };
    let apiserver = ensure(&Leaf::apiserver(names))?;
    let apiserver_node = ensure(&Leaf::apiserver_node())?;
    let mut clients = Vec::new();
    let nodes = nodes.iter().map(|node| Leaf::node(node, &[]));
    for leaf in [Leaf::admin(), Leaf::controllers()].into_iter().chain(nodes) {
        let material = ensure(&leaf)?;
        clients.push((leaf, material));
    }
    let ca_pem = pki.ca_pem().to_owned();
    Ok(Identities { ca: pki.ca_path(), apiserver, apiserver_node, ca_pem, clients, outcomes })
}

/// Writes the kubeconfigs of all identities, where they changed.
pub(crate) fn kubeconfigs(data: &DataDir, server: &str, identities: &Identities) -> Result<()> {
    for (leaf, material) in &identities.clients {
        let path = data.kubeconfig(leaf.identity());
        write_kubeconfig(&path, server, &identities.ca_pem, leaf.identity(), material)?;
    }
    Ok(())
}

/// What tells this cluster's containers from another's on the same daemon: made once, kept in `<data>/cluster-id`.
pub(crate) fn cluster_id(data: &DataDir) -> Result<String> {
    let path = data.path().join("cluster-id");
    if let Some(id) = read_optional(&path)? {
        let id = id.trim();
        if !id.is_empty() && id.len() <= 63 && id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Ok(id.to_owned());
        }
        bail!(
            "{}: is not a cluster's id; put the old one back, or remove the file",
            path.display()
        );
    }
    let id = format!("{:016x}", rand::random::<u64>());
    write_atomically(&path, id.as_bytes(), 0o644)?;
    Ok(id)
}

/// The name of this machine as a node's name.
pub(crate) fn default_node_name() -> String {
    hostname().filter(|name| check_node_name(name).is_ok()).unwrap_or_else(|| "node-1".to_owned())
}

/// RFC 1123 subdomain, as the API demands of a Node's name; it becomes part of file names as well.
pub(crate) fn check_node_name(name: &str) -> Result<()> {
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        bytes.first().is_some_and(plain)
            && bytes.last().is_some_and(plain)
            && bytes.iter().all(|b| plain(b) || *b == b'-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        return Ok(());
    }
    bail!(
        "node name {name:?}: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
         '.', and must start and end with an alphanumeric character"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_checked() {
        for (name, good) in [
            ("node-1", true),
            ("a.b", true),
            ("", false),
            ("Node", false),
            ("../x", false),
            ("-a", false),
            ("a..b", false),
        ] {
            assert_eq!(check_node_name(name).is_ok(), good, "{name:?}");
        }
    }
}
