//! Header blocks: pairs of text, compressed by one zlib stream for each direction of a connection, which starts with the
//! dictionary of the draft and is flushed after each block.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::{Error, MAX_HEADER_BLOCK};

/// Names are lower case and come once; several values of one are separated by NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value; names are compared without regard to case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn parse(block: &[u8]) -> Result<Self, Error> {
        let mut rest = block;
        let count = number(&mut rest)?;
        // A pair has 9 bytes at least.
        if count > rest.len() / 9 {
            return Err(Error::Headers("fewer than they say"));
        }
        let mut pairs: Vec<(String, String)> = Vec::with_capacity(count);
        for _ in 0..count {
            let (name, value) = (text(&mut rest)?, text(&mut rest)?);
            if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return Err(Error::Headers("a name is empty or not in lower case"));
            }
            pairs.push((name, value));
        }
        if !rest.is_empty() {
            return Err(Error::Headers("more than they say"));
        }
        let mut names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).any(|pair| pair[0] == pair[1]) {
            true => Err(Error::Headers("a name comes twice")),
            false => Ok(Self(pairs)),
        }
    }

    fn write(&self) -> Vec<u8> {
        let mut block = length(self.0.len()).to_vec();
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&length(text.len()));
            block.extend_from_slice(text.as_bytes());
        }
        block
    }
}

/// Names become lower case; of several with one name the last one counts.
impl<N: AsRef<str>, V: Into<String>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut all: Vec<(String, String)> = Vec::new();
        for (name, value) in pairs {
            let name = name.as_ref().to_ascii_lowercase();
            all.retain(|(known, _)| *known != name);
            all.push((name, value.into()));
        }
        Self(all)
    }
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

fn number(rest: &mut &[u8]) -> Result<usize, Error> {
    let (number, tail) =
        rest.split_first_chunk::<4>().ok_or(Error::Headers("cut off within a length"))?;
    *rest = tail;
    Ok(usize::try_from(u32::from_be_bytes(*number)).unwrap_or(usize::MAX))
}

fn text(rest: &mut &[u8]) -> Result<String, Error> {
    let length = number(rest)?;
    let (text, tail) =
        rest.split_at_checked(length).ok_or(Error::Headers("cut off within a text"))?;
    *rest = tail;
    String::from_utf8(text.to_vec()).map_err(|_| Error::Headers("not UTF-8"))
}

/// Reads the blocks of one direction, every one of them and in order.
#[derive(Debug)]
pub(crate) struct Inflater(Decompress);

impl Inflater {
    pub(crate) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(crate) fn block(&mut self, compressed: &[u8]) -> Result<Headers, Error> {
        let mut plain = Vec::with_capacity(1024);
        let mut rest = compressed;
        loop {
            if plain.len() == plain.capacity() {
                if plain.len() >= MAX_HEADER_BLOCK {
                    return Err(Error::Headers("too long"));
                }
                plain.reserve(plain.len());
            }
            let (read, written) = (self.0.total_in(), plain.len());
            let status = self.0.decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            let read = usize::try_from(self.0.total_in() - read).unwrap_or(usize::MAX);
            rest = rest.get(read..).unwrap_or_default();
            match status {
                Ok(Status::StreamEnd) => return Err(Error::Headers("their compression ended")),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    let known = self.0.set_dictionary(&dictionary());
                    known.map_err(|_| Error::Headers("compressed with another dictionary"))?;
                    continue;
                }
                Err(_) => return Err(Error::Headers("not compressed")),
            }
            let full = plain.len() == plain.capacity();
            if rest.is_empty() && !full {
                return Headers::parse(&plain);
            }
            if read == 0 && plain.len() == written && !full {
                return Err(Error::Headers("not compressed"));
            }
        }
    }
}

/// Writes the blocks of one direction.
#[derive(Debug)]
pub(crate) struct Deflater(Compress);

impl Deflater {
    pub(crate) fn new() -> Self {
        let mut compress = Compress::new(Compression::default(), true);
        let taken = compress.set_dictionary(&dictionary());
        debug_assert!(taken.is_ok(), "a fresh stream takes a dictionary");
        Self(compress)
    }

    pub(crate) fn block(&mut self, headers: &Headers) -> Vec<u8> {
        let plain = headers.write();
        let mut compressed = Vec::with_capacity(64 + plain.len());
        let mut rest = plain.as_slice();
        loop {
            let read = self.0.total_in();
            let status = self.0.compress_vec(rest, &mut compressed, FlushCompress::Sync);
            debug_assert!(status.is_ok(), "memory to memory");
            let read = usize::try_from(self.0.total_in() - read).unwrap_or(usize::MAX);
            rest = rest.get(read..).unwrap_or_default();
            // Room that is left means that the flush is complete.
            if status.is_err() || (rest.is_empty() && compressed.len() < compressed.capacity()) {
                return compressed;
            }
            compressed.reserve(64 + rest.len());
        }
    }
}

/// Words that are expected in headers, each behind its length, and text that is expected in values. Section 2.6.10.1 of
/// the draft.
pub(crate) fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS.split(',') {
        bytes.extend_from_slice(&length(word.len()));
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TEXT.as_bytes());
    bytes
}

const WORDS: &str = "options,head,post,put,delete,trace,accept,accept-charset,accept-encoding,accept-language,\
accept-ranges,age,allow,authorization,cache-control,connection,content-base,content-encoding,content-language,\
content-length,content-location,content-md5,content-range,content-type,date,etag,expect,expires,from,host,if-match,\
if-modified-since,if-none-match,if-range,if-unmodified-since,last-modified,location,max-forwards,pragma,\
proxy-authenticate,proxy-authorization,range,referer,retry-after,server,te,trailer,transfer-encoding,upgrade,\
user-agent,vary,via,warning,www-authenticate,method,get,status,200 OK,version,HTTP/1.1,url,public,set-cookie,\
keep-alive,origin";

const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
