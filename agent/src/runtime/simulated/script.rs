//! What a simulated container (or exec) does, read from its command where that is simple.

use std::time::Duration;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Script {
    /// Whether the command was understood. One that was not runs until it is stopped.
    pub known: bool,
    pub says: Vec<String>,
    /// `None`: never by itself.
    pub ends_after: Option<Duration>,
    pub exit_code: i32,
}

/// Understands `echo`, `sleep`, `true`, `false`, `exit`, and `sh -c` of a sequence of them.
pub(super) fn read(command: &[String], args: &[String]) -> Script {
    let words: Vec<&str> = command.iter().chain(args).map(String::as_str).collect();
    let shell = |word: &str| matches!(word.rsplit('/').next(), Some("sh" | "bash" | "ash"));
    let lines: Vec<Vec<String>> = match words.as_slice() {
        [sh, "-c" | "-ec", text, ..] if shell(sh) => text
            .split([';', '\n'])
            .flat_map(|part| part.split("&&"))
            .map(|part| part.split_whitespace().map(unquote).collect())
            .filter(|line: &Vec<String>| !line.is_empty())
            .collect(),
        [] => return Script::default(),
        _ => vec![words.iter().map(|word| (*word).to_owned()).collect()],
    };
    let mut script = Script { known: true, ends_after: Some(Duration::ZERO), ..Script::default() };
    for line in lines {
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let line = line.strip_prefix(&["exec"]).unwrap_or(&line);
        let Some((name, rest)) = line.split_first() else { continue };
        match (name.rsplit('/').next().unwrap_or_default(), rest) {
            ("echo", said) if !said.contains(&">") => script.says.push(said.join(" ")),
            ("sleep", [time]) => match super::parse_duration(time) {
                Some(time) => script.ends_after = script.ends_after.map(|t| t + time),
                None => {
                    // `infinity`
                    script.ends_after = None;
                    return script;
                }
            },
            ("true" | ":", _) => script.exit_code = 0,
            ("false", _) => script.exit_code = 1,
            ("exit", [code]) => {
                script.exit_code = code.parse().unwrap_or(2);
                return script;
            }
            _ => return Script { says: script.says, ..Script::default() },
        }
    }
    script
}

fn unquote(word: &str) -> String {
    word.trim_matches(['"', '\'']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts() {
        let read =
            |words: &[&str]| read(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>(), &[]);
        let ends = |code, seconds| Script {
            known: true,
            ends_after: Some(Duration::from_secs(seconds)),
            exit_code: code,
            says: vec![],
        };
        assert_eq!(read(&[]), Script::default());
        assert_eq!(read(&["nginx"]), Script::default());
        assert_eq!(read(&["/bin/sleep", "5"]), ends(0, 5));
        assert_eq!(read(&["sh", "-c", "sleep 2; exit 3"]), ends(3, 2));
        assert_eq!(read(&["sh", "-c", "echo 'a' b; nginx"]).says, ["a b"]);
        assert!(!read(&["sh", "-c", "while true; do x; done"]).known);
        assert_eq!(read(&["false"]), ends(1, 0));
        assert_eq!(read(&["sleep", "infinity"]).ends_after, None);
    }
}
