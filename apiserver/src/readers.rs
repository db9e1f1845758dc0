//! Readers that read by HTTP watch because their broker is away; each of their watches says so ([`fallback`]). Known for as
//! long as it does so: nothing is written, and nothing goes stale.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use tokio::time::Instant;
use warren_api::Status;
use warren_broker::fallback;

use crate::authn::{CONTROLLERS, User};

const HEADER: HeaderName = HeaderName::from_static(fallback::FALLBACK);

/// Who reads so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reader {
    Node(String),
    /// A process with informers, by the name that it gives itself.
    Informers(String),
}

struct Watches {
    open: usize,
    since: Instant,
}

#[derive(Clone, Default)]
pub(crate) struct Readers(Arc<Mutex<BTreeMap<Reader, Watches>>>);

/// A watch of such a reader, until it is dropped.
pub(crate) struct Reading {
    readers: Readers,
    reader: Reader,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut all = self.readers.0.lock();
        if let Some(watches) = all.get_mut(&self.reader) {
            watches.open -= 1;
            if watches.open == 0 {
                all.remove(&self.reader);
            }
        }
    }
}

impl Readers {
    /// Of a watch's request. A node is known by its identity, whatever it says; what others than our own parts say is
    /// nobody's concern.
    pub(crate) fn watch(
        &self,
        headers: &HeaderMap,
        user: &User,
    ) -> Result<Option<Reading>, Status> {
        let Some(value) = headers.get(HEADER) else { return Ok(None) };
        let text = value.to_str().unwrap_or_default();
        let name = fallback::parse(text).map_err(|error| {
            let header = fallback::FALLBACK;
            Status::bad_request(format!("header {header}: Invalid value: {error}"))
        })?;
        let reader = match user.as_node() {
            Some(node) => Reader::Node(node.to_owned()),
            None if user.is_in(CONTROLLERS) => Reader::Informers(name.to_owned()),
            None => return Ok(None),
        };
        let new = || Watches { open: 0, since: Instant::now() };
        self.0.lock().entry(reader.clone()).or_insert_with(new).open += 1;
        Ok(Some(Reading { readers: self.clone(), reader }))
    }

    /// Each with how long it has done so.
    pub(crate) fn all(&self) -> Vec<(Reader, Duration)> {
        let all = self.0.lock();
        all.iter().map(|(reader, watches)| (reader.clone(), watches.since.elapsed())).collect()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_reader_is_known_while_a_watch_of_it_is_open() {
        let readers = Readers::default();
        let watch = |name: &'static str, user: &User| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_static(name));
            readers.watch(&headers, user)
        };
        let names = || readers.all().into_iter().map(|(reader, _)| reader).collect::<Vec<_>>();
        let node = User::node("a");
        assert!(readers.watch(&HeaderMap::new(), &node).unwrap().is_none());
        let error = watch("a b", &node).err().unwrap();
        assert!(error.message.contains("warren-fallback"), "{}", error.message);
        // Nobody speaks for another, and a person's watch is no part of the cluster.
        let first = watch("b", &node).unwrap();
        let second = watch("a", &node).unwrap();
        let informers = watch("controllers.1", &User::controllers()).unwrap();
        assert!(watch("c", &User::new("jane", &[])).unwrap().is_none());
        let (a, controllers) =
            (Reader::Node("a".to_owned()), Reader::Informers("controllers.1".to_owned()));
        assert_eq!(names(), [a.clone(), controllers.clone()]);
        drop(first);
        assert_eq!(names(), [a, controllers.clone()]);
        drop(second);
        assert_eq!(names(), [controllers]);
        drop(informers);
        assert_eq!(names(), []);
    }
}
