//! Core: the path of a URL, as the routes spell it.

use axum::http::Uri;
use axum::http::uri::PathAndQuery;

/// The URI with `//` made `/`: shim asks for `//grubx64.efi`. `None`: it has none.
pub fn single_slashes(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    if !path.contains("//") {
        return None;
    }
    let mut tidy = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !tidy.ends_with('/') {
            tidy.push(c);
        }
    }
    if let Some(query) = uri.query() {
        tidy = format!("{tidy}?{query}");
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(tidy).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_are_made_single_and_the_query_is_left_alone() {
        let check = |from: &str, to: Option<&str>| {
            let uri: Uri = from.parse().expect("a good URI");
            assert_eq!(single_slashes(&uri).map(|uri| uri.to_string()).as_deref(), to, "{from}");
        };
        check("//snponly.efi", Some("/snponly.efi"));
        check("/a//b///c?x=//y", Some("/a/b/c?x=//y"));
        check("/a/b?x=//", None);
    }
}
