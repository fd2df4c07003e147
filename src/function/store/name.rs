//! What a download is called: the last part of its URL, made safe to be a file's name.
use reqwest::Url;

/// The extensions that say what code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(super) enum Extension {
    So,
    Zip,
    Jar,
    Class,
    Py,
    Js,
    Mjs,
    Cjs,
}

impl Extension {
    const ALL: [(Extension, &str); 8] = [
        (Extension::So, "so"),
        (Extension::Zip, "zip"),
        (Extension::Jar, "jar"),
        (Extension::Class, "class"),
        (Extension::Py, "py"),
        (Extension::Js, "js"),
        (Extension::Mjs, "mjs"),
        (Extension::Cjs, "cjs"),
    ];

    fn text(self) -> &'static str {
        Extension::ALL.iter().find(|(extension, _)| *extension == self).map_or("", |(_, text)| text)
    }
}

/// A file's name that holds nothing a path or a shell would trip over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileName {
    /// The name without its extension; never empty, at most [`STEM_BYTES`] long.
    pub stem: String,
    /// `None` if the name has none or an unknown one.
    pub extension: Option<Extension>,
}

/// Longest stem in bytes; a file's name may have 255 on Linux.
const STEM_BYTES: usize = 150;

impl FileName {
    /// The name of what was downloaded: of the first that has a known extension, else of the first that has a name.
    ///
    /// `disposition` is the answer's `Content-Disposition`, `last` the URL after all redirects.
    pub(super) fn of_download(url: &Url, disposition: Option<&str>, last: &Url) -> FileName {
        let names = [segment(url), disposition.and_then(disposition_name), segment(last)];
        let names: Vec<FileName> = names.iter().flatten().filter_map(|name| FileName::of(name)).collect();
        let best = names.iter().find(|name| name.extension.is_some()).or(names.first());
        best.cloned().unwrap_or_else(|| FileName { stem: "function".into(), extension: None })
    }

    /// Reads a name back that [`FileName::text`] wrote.
    pub(super) fn parse(text: &str) -> Option<FileName> {
        FileName::of(text).filter(|name| name.text() == text)
    }

    /// The whole name.
    pub(super) fn text(&self) -> String {
        match self.extension {
            Some(extension) => format!("{}.{}", self.stem, extension.text()),
            None => self.stem.clone(),
        }
    }

    fn of(name: &str) -> Option<FileName> {
        let known = name.rsplit_once('.').and_then(|(stem, end)| {
            let end = end.to_ascii_lowercase();
            let (extension, _) = Extension::ALL.iter().find(|(_, text)| *text == end)?;
            Some((stem, *extension))
        });
        let (stem, extension) = match known {
            Some((stem, extension)) => (stem, Some(extension)),
            None => (name, None),
        };
        let safe = |c: char| if c.is_alphanumeric() || "_-.".contains(c) { c } else { '_' };
        let mut stem: String = stem.trim_start_matches('.').chars().map(safe).collect();
        let end =
            stem.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= STEM_BYTES).last();
        stem.truncate(end.unwrap_or(0));
        (!stem.is_empty()).then_some(FileName { stem, extension })
    }
}

/// The last part of a URL's path, without its query.
fn segment(url: &Url) -> Option<String> {
    let segment = url.path_segments()?.next_back()?;
    Some(percent_encoding::percent_decode_str(segment).decode_utf8_lossy().into_owned())
}

/// The file's name in a `Content-Disposition` (RFC 6266), without folders.
fn disposition_name(header: &str) -> Option<String> {
    let mut plain = None;
    for parameter in header.split(';').skip(1) {
        let Some((key, value)) = parameter.split_once('=') else { continue };
        let value = value.trim().trim_matches('"');
        match key.trim().to_ascii_lowercase().as_str() {
            "filename*" => {
                let encoded = value.rsplit('\'').next()?;
                let decoded = percent_encoding::percent_decode_str(encoded).decode_utf8_lossy().into_owned();
                return Some(without_folders(&decoded));
            }
            "filename" => plain = Some(without_folders(value)),
            _ => {}
        }
    }
    plain
}

fn without_folders(path: &str) -> String {
    path.rsplit(['/', '\\']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(url: &str, disposition: Option<&str>) -> String {
        let url = Url::parse(url).unwrap();
        FileName::of_download(&url, disposition, &url).text()
    }

    #[test]
    fn takes_the_name_from_the_url() {
        assert_eq!(name("http://h/a/hello.py?x=y.js", None), "hello.py");
        assert_eq!(name("http://h/Hello-World.JAR", None), "Hello-World.jar");
        assert_eq!(name("http://h/gr%C3%B6%C3%9Fe.py", None), "größe.py");
        assert_eq!(name("http://h/..%2f..%2fetc%2fx.so", None), "_.._etc_x.so");
        assert_eq!(name("http://h/a%20b%00.js", None), "a_b_.js");
        assert_eq!(name("http://h/", None), "function");
        assert_eq!(name("http://h/.py", None), "function");
    }

    #[test]
    fn takes_the_name_from_the_disposition() {
        assert_eq!(name("http://h/get?id=1", Some("attachment; filename=\"../f.py\"")), "f.py");
        assert_eq!(
            name("http://h/get", Some("attachment; filename=x.js; filename*=UTF-8''%C3%B6.mjs")),
            "ö.mjs"
        );
        assert_eq!(name("http://h/own.py", Some("attachment; filename=other.py")), "own.py");
        assert_eq!(name("http://h/get", Some("inline")), "get");
    }

    #[test]
    fn takes_the_name_after_redirects_last() {
        let name = FileName::of_download(
            &Url::parse("http://h/latest").unwrap(),
            None,
            &Url::parse("http://h/v2/app.zip").unwrap(),
        );
        assert_eq!(name.text(), "app.zip");
    }

    proptest! {
        #[test]
        fn every_name_is_safe(path in ".{0,300}", disposition in proptest::option::of(".{0,80}")) {
            let mut url = Url::parse("http://h/").unwrap();
            url.set_path(&path);
            let name = FileName::of_download(&url, disposition.as_deref(), &url);
            let text = name.text();
            prop_assert!(!text.is_empty() && text.len() < 200 && !text.starts_with('.'));
            prop_assert!(!text.contains(['/', '\\', '\0', ' ', '"', '\'']));
            prop_assert_eq!(FileName::parse(&text), Some(name));
        }
    }
}
