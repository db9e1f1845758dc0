use proptest::prelude::*;

use super::*;

fn links() -> Links {
    Links::new("/p/proxy", "localhost:8001", "10.0.0.1:8080")
}

/// What becomes of a page that comes in pieces of that size, and how often a byte of it was looked at.
fn rewritten(page: &[u8], size: usize) -> (Vec<u8>, usize) {
    let mut html = Html::new(links());
    let mut out: Vec<u8> = page.chunks(size).flat_map(|piece| html.feed(piece)).collect();
    out.extend(html.finish());
    (out, html.looks)
}

const PAGES: [(&str, &str); 16] = [
    ("<a href=\"/a\">/a</a>", "<a href=\"/p/proxy/a\">/a</a>"),
    ("<A HREF='/a' class=x>", "<A HREF='/p/proxy/a' class=x>"),
    ("<a href=/a>", "<a href=/p/proxy/a>"),
    (
        "<img\n src = \"/a.png\" alt=\"/a > b\"/>",
        "<img\n src = \"/p/proxy/a.png\" alt=\"/a > b\"/>",
    ),
    ("<a title=\"/a\" href=\"b\">", "<a title=\"/a\" href=\"b\">"),
    (
        "<form action=/a><input formaction=\"/b\" disabled>",
        "<form action=/p/proxy/a><input formaction=\"/p/proxy/b\" disabled>",
    ),
    (
        "<script src=\"/a.js\">if (a < b) { w('<a href=\"/c\">') }</script><a href='/d'>",
        "<script src=\"/p/proxy/a.js\">if (a < b) { w('<a href=\"/c\">') }</script><a href='/p/proxy/d'>",
    ),
    ("<!-- <a href=\"/a\"> --><a href=\"/b\">", "<!-- <a href=\"/a\"> --><a href=\"/p/proxy/b\">"),
    ("<!doctype html><p>1 < 2 <3 </p>", "<!doctype html><p>1 < 2 <3 </p>"),
    ("<a href=\"/a?b=1&amp;c=/d\">", "<a href=\"/p/proxy/a?b=1&amp;c=/d\">"),
    ("<a href=\"/never ended", "<a href=\"/never ended"),
    (
        "<title><a href=\"/a\"></TITLE><q cite=\"/b\">",
        "<title><a href=\"/a\"></TITLE><q cite=\"/p/proxy/b\">",
    ),
    ("text <", "text <"),
    ("<<a href=/a><!-<!--><a href=/a>-->", "<<a href=/p/proxy/a><!-<!--><a href=/a>-->"),
    ("<xmp></xm</XMP></x><q cite=/a>", "<xmp></xm</XMP></x><q cite=/p/proxy/a>"),
    ("<style>a { b: '/c' }", "<style>a { b: '/c' }"),
];

#[test]
fn pages_in_whatever_pieces_they_come() {
    for (page, expected) in PAGES {
        for size in 1..=page.len() {
            let (out, _) = rewritten(page.as_bytes(), size);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "in pieces of {size}");
        }
    }
}

/// Also what is never ended, and tags that are too long.
#[test]
fn every_byte_is_looked_at_three_times_at_the_most() {
    const SIZE: usize = 200_000;
    for (unit, rest) in [
        ("<a ", ""),
        ("<", ""),
        ("<!-", ""),
        ("<!--", ""),
        ("</script", "<script>"),
        ("<a href=/a ", ""),
        ("a=", "<a "),
        ("=", "<a "),
        ("x", "<a href=\""),
        ("<a href='/a'>", ""),
    ] {
        let page: String = rest.chars().chain(unit.chars().cycle()).take(SIZE).collect();
        for size in [1, 4096, SIZE] {
            let (out, looks) = rewritten(page.as_bytes(), size);
            assert!(looks <= 3 * SIZE, "{unit:?} in pieces of {size}: {looks}");
            assert!(out.len() >= SIZE, "{unit:?}: nothing is lost");
        }
    }
}

#[test]
fn little_is_held() {
    let mut html = Html::new(links());
    let mut come = html.feed(b"<a href=\"").len();
    let mut held = 0;
    for _ in 0..100 {
        come += html.feed(&[b'x'; 4096]).len();
        held = held.max(html.tag.held.len());
    }
    assert!(held <= MAX_TAG && come + html.tag.held.len() == 9 + 100 * 4096, "{held}");
    assert_eq!(html.feed(b"\"><a href=\"/a\">"), b"\"><a href=\"/p/proxy/a\">");
}

proptest! {
    #[test]
    fn pieces_make_no_difference(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "<", ">", "a", "a ", "href", "=", "\"", "'", "/", "/b", " ", "!--", "--", "script", "<a href=",
                "<SCRIPT src=/x>", "</script", "<img src='/i'", "ä",
            ]),
            0..40,
        ),
        size in 1_usize..9,
    ) {
        let page = words.concat();
        let (whole, looks) = rewritten(page.as_bytes(), page.len().max(1));
        prop_assert_eq!(&rewritten(page.as_bytes(), size).0, &whole);
        prop_assert!(looks <= 3 * page.len());
        // Nothing but links changes.
        let plain = String::from_utf8(whole).unwrap().replace("/p/proxy", "");
        prop_assert_eq!(plain, page);
    }
}
