//! The cluster's CA, the certificates of its parts, their kubeconfigs.
//!
//! Keys are ECDSA P-256. The CA is valid for ten years, a certificate for one. Material that is there is kept; a
//! certificate is made again when it has less than thirty days left, when its names changed, when its key or file does
//! not fit, or when the CA is another. All of it is idempotent and guarded by a lock, so that every role may call it at
//! each start.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::Engine;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::files::{DataDir, Lock, read_optional, write_atomically, write_private};

const DAY: SignedDuration = SignedDuration::from_hours(24);
const CA_DAYS: i32 = 3650;
const LEAF_DAYS: i32 = 365;
const RENEW_DAYS: i32 = 30;
/// The first address of the services' range: `kubernetes.default.svc`.
const SERVICE_ADDRESS: &str = "10.96.0.1";

/// What a certificate says, and under which name its files lie.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    file: String,
    common_name: String,
    organization: Option<&'static str>,
    server: bool,
    client: bool,
    names: BTreeSet<String>,
}

impl Leaf {
    /// What the API serves with. `extra` are more names or addresses by which people reach it.
    pub(crate) fn apiserver(extra: &[String]) -> Self {
        let mut names: BTreeSet<String> = [
            "localhost",
            "127.0.0.1",
            "::1",
            SERVICE_ADDRESS,
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ]
        .map(str::to_owned)
        .into();
        names.extend(hostname());
        names.extend(extra.iter().cloned());
        Self::new("apiserver", "kube-apiserver", None, true, false, names)
    }

    /// What the API shows to the nodes' own ports.
    pub(crate) fn apiserver_node() -> Self {
        Self::new("apiserver-node", "system:apiserver", None, false, true, BTreeSet::new())
    }

    pub(crate) fn admin() -> Self {
        Self::new("admin", "admin", Some("system:masters"), false, true, BTreeSet::new())
    }

    pub(crate) fn controllers() -> Self {
        let group = Some("system:controllers");
        Self::new("controllers", "system:controllers", group, false, true, BTreeSet::new())
    }

    /// A node's, for both sides of a connection.
    pub(crate) fn node(name: &str, addresses: &[String]) -> Self {
        let mut names: BTreeSet<String> =
            [name, "localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        names.extend(addresses.iter().cloned());
        let (file, cn) = (format!("node-{name}"), format!("system:node:{name}"));
        Self::new(&file, &cn, Some("system:nodes"), true, true, names)
    }

    fn new(
        file: &str,
        common_name: &str,
        organization: Option<&'static str>,
        server: bool,
        client: bool,
        names: BTreeSet<String>,
    ) -> Self {
        let (file, common_name) = (file.to_owned(), common_name.to_owned());
        Self { file, common_name, organization, server, client, names }
    }

    /// The user's name in a kubeconfig and the stem of the files.
    pub(crate) fn identity(&self) -> &str {
        &self.file
    }
}

/// What [`Pki::ensure`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Kept,
    Made(&'static str),
}

/// A certificate and its key, on disk and in memory.
#[derive(Clone, Debug)]
pub(crate) struct Material {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

pub(crate) struct Pki {
    dir: PathBuf,
    ca_pem: String,
    /// Absent where only the certificate is here, as on a node that joined.
    issuer: Option<Issuer<'static, KeyPair>>,
    now: Timestamp,
    _lock: Lock,
}

impl Pki {
    /// Reads the CA, or makes it where there is none.
    pub(crate) fn open(data: &DataDir, now: Timestamp) -> Result<Self> {
        let dir = data.pki();
        let lock = Lock::wait(&dir.join(".lock"))?;
        let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        let (ca_pem, key_pem) = match (read_optional(&certificate)?, read_optional(&key)?) {
            (Some(ca), key) => (ca, key),
            (None, Some(_)) => bail!(
                "{}: is missing, but its key is there; put the certificate back, or remove the key to start a new CA \
                 (all kubeconfigs then change)",
                certificate.display()
            ),
            (None, None) => {
                let (ca, made) = make_ca(now)?;
                write_private(&key, made.as_bytes())?;
                write_atomically(&certificate, ca.as_bytes(), 0o644)?;
                (ca, Some(made))
            }
        };
        check_ca(&ca_pem, now).with_context(|| certificate.display().to_string())?;
        let issuer = match key_pem {
            Some(pem) => {
                let key_pair = KeyPair::from_pem(&pem)
                    .with_context(|| format!("{}: is not a key", key.display()))?;
                if public_key_of(&ca_pem)? != key_pair.public_key_raw() {
                    bail!("{}: does not belong to {}", key.display(), certificate.display());
                }
                Some(
                    Issuer::from_ca_cert_pem(&ca_pem, key_pair)
                        .with_context(|| format!("{}: is not a CA", certificate.display()))?,
                )
            }
            None => None,
        };
        Ok(Self { dir, ca_pem, issuer, now, _lock: lock })
    }

    pub(crate) fn ca_path(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Keeps the certificate, or makes it (again). Without the CA's key what is there is taken as it is.
    pub(crate) fn ensure(&self, leaf: &Leaf) -> Result<(Material, Outcome)> {
        let certificate = self.dir.join(format!("{}.crt", leaf.file));
        let key = self.dir.join(format!("{}.key", leaf.file));
        let present = match (read_optional(&certificate)?, read_optional(&key)?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => None,
        };
        let reason = match &present {
            None => Some("there was none"),
            Some((certificate, key)) => self.why_renew(leaf, certificate, key),
        };
        let (Some(reason), Some(issuer)) = (reason, &self.issuer) else {
            let Some((certificate_pem, key_pem)) = present else {
                bail!(
                    "{}: is missing, and without {} no certificate can be made here",
                    certificate.display(),
                    self.dir.join("ca.key").display()
                );
            };
            return Ok((Material { certificate, key, certificate_pem, key_pem }, Outcome::Kept));
        };
        let key_pair = KeyPair::generate().context("making a key")?;
        let made = self
            .params(leaf)?
            .signed_by(&key_pair, issuer)
            .with_context(|| format!("signing the certificate {}", leaf.file))?;
        let (certificate_pem, key_pem) = (made.pem(), key_pair.serialize_pem());
        // The key first: a crash between the two leaves a pair that does not fit, which the next start mends.
        write_private(&key, key_pem.as_bytes())?;
        write_atomically(&certificate, certificate_pem.as_bytes(), 0o644)?;
        Ok((Material { certificate, key, certificate_pem, key_pem }, Outcome::Made(reason)))
    }

    fn params(&self, leaf: &Leaf) -> Result<CertificateParams> {
        let mut params = CertificateParams::default();
        set_validity(&mut params, self.now, LEAF_DAYS);
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(organization) = leaf.organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.distinguished_name.push(DnType::CommonName, leaf.common_name.as_str());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        if leaf.server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if leaf.client {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        for name in &leaf.names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(
                    name.as_str()
                        .try_into()
                        .with_context(|| format!("{name:?} is not a host's name"))?,
                ),
            });
        }
        Ok(params)
    }

    fn why_renew(&self, leaf: &Leaf, pem: &str, key: &str) -> Option<&'static str> {
        let Ok(der) = der_of(pem) else { return Some("the file was damaged") };
        let Ok((_, certificate)) = X509Certificate::from_der(&der) else {
            return Some("the file was damaged");
        };
        let fits = KeyPair::from_pem(key).is_ok_and(|pair| {
            pair.public_key_raw() == certificate.public_key().subject_public_key.data.as_ref()
        });
        if !fits {
            return Some("the key did not fit");
        }
        let left = certificate.validity().not_after.timestamp() - self.now.as_second();
        if left < (DAY * RENEW_DAYS).as_secs() {
            return Some("it ends within thirty days");
        }
        let by_this_ca = der_of(&self.ca_pem).ok().is_some_and(|ca| {
            X509Certificate::from_der(&ca).is_ok_and(|(_, ca)| {
                certificate.issuer() == ca.subject()
                    && certificate.verify_signature(Some(ca.public_key())).is_ok()
            })
        });
        if !by_this_ca {
            return Some("the CA is another");
        }
        if names_of(&certificate) != leaf.names {
            return Some("its names changed");
        }
        None
    }
}

/// Writes a kubeconfig for an identity with everything embedded. Answers whether the file changed.
pub(crate) fn write_kubeconfig(
    path: &Path,
    server: &str,
    ca_pem: &str,
    user: &str,
    material: &Material,
) -> Result<bool> {
    let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    let content = format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: warren\n\
         \x20 cluster:\n\
         \x20   server: {server}\n\
         \x20   certificate-authority-data: {ca}\n\
         users:\n\
         - name: {user}\n\
         \x20 user:\n\
         \x20   client-certificate-data: {certificate}\n\
         \x20   client-key-data: {key}\n\
         contexts:\n\
         - name: {user}@warren\n\
         \x20 context:\n\
         \x20   cluster: warren\n\
         \x20   user: {user}\n\
         current-context: {user}@warren\n",
        ca = encode(ca_pem),
        certificate = encode(&material.certificate_pem),
        key = encode(&material.key_pem),
    );
    if read_optional(path)?.as_deref() == Some(content.as_str()) {
        return Ok(false);
    }
    write_private(path, content.as_bytes())?;
    Ok(true)
}

/// This machine's name, as a certificate may carry it.
pub(crate) fn hostname() -> Option<String> {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_str().ok()?.to_ascii_lowercase();
    let fits = !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    fits.then_some(name)
}

fn make_ca(now: Timestamp) -> Result<(String, String)> {
    let key = KeyPair::generate().context("making the CA's key")?;
    let mut params = CertificateParams::default();
    set_validity(&mut params, now, CA_DAYS);
    params.distinguished_name = rcgen::DistinguishedName::new();
    // The number tells two clusters' CAs apart where both lie in one trust store.
    let number: u32 = rand::random();
    params.distinguished_name.push(DnType::CommonName, format!("warren-ca-{number:08x}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let certificate = params.self_signed(&key).context("signing the CA")?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// From the day before (clocks differ) for so many days.
fn set_validity(params: &mut CertificateParams, now: Timestamp, days: i32) {
    let day = |at: Timestamp| {
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(
            date.year().into(),
            date.month().unsigned_abs(),
            date.day().unsigned_abs(),
        )
    };
    params.not_before = day(now - DAY);
    params.not_after = day(now + DAY * days);
}

fn check_ca(pem: &str, now: Timestamp) -> Result<()> {
    let der = der_of(pem)?;
    let (_, certificate) = X509Certificate::from_der(&der).context("is not a certificate")?;
    if !certificate.is_ca() {
        bail!("is not the certificate of a CA");
    }
    if certificate.validity().not_after.timestamp() < now.as_second() {
        bail!(
            "has expired on {}; remove the folder to start a new CA",
            certificate.validity().not_after
        );
    }
    Ok(())
}

fn der_of(pem: &str) -> Result<Vec<u8>> {
    let (_, block) =
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).context("is not a PEM file")?;
    Ok(block.contents)
}

fn public_key_of(pem: &str) -> Result<Vec<u8>> {
    let der = der_of(pem)?;
    let (_, certificate) = X509Certificate::from_der(&der).context("is not a certificate")?;
    Ok(certificate.public_key().subject_public_key.data.to_vec())
}

fn names_of(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return BTreeSet::new();
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
                .ok()
                .map(|address| address.to_string())
        }
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

#[cfg(test)]
mod tests;
