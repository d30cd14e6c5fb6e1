//! Runs the shell steps of a GitHub workflow's job on this machine, and evaluates what decides whether it runs.

use std::collections::BTreeMap;
use std::fs;
use std::process::Output;

use serde_json::{Map, Value};

use crate::checkout::Checkout;
use crate::contracts_files::workspace;

/// A workflow file of this repository.
#[derive(Debug)]
pub struct Workflow {
    /// The file's content.
    pub content: Value,
}

/// What `github`, `inputs` and `secrets` hold in a run: the value of each full name. A name that is not in it is empty.
pub type Context = BTreeMap<String, String>;

/// What a job's shell steps did.
#[derive(Debug)]
pub struct JobRun {
    /// The actions it used, as `name@version`.
    pub actions: Vec<String>,
    /// Name and output of each step that was run; the last one is the failed one where `succeeded` is false.
    pub steps: Vec<(String, Output)>,
    /// Whether no step failed.
    pub succeeded: bool,
    /// What the steps wrote to `GITHUB_OUTPUT`.
    pub outputs: BTreeMap<String, String>,
}

impl Workflow {
    /// Reads `.github/workflows/<name>`.
    pub fn read(name: &str) -> Self {
        let path = workspace().join(".github/workflows").join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("`{}`: {error}", path.display()));
        let content = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("`{}`: {error}", path.display()));
        Self { content }
    }

    /// Whether a job would run.
    pub fn job_runs(&self, job: &str, context: &Context) -> bool {
        let condition = self.content["jobs"][job]["if"].as_str().expect("the job has a condition");
        !evaluate(condition, context).is_empty()
    }

    /// Runs the shell steps of a job in a checkout, until one fails. Actions are left out.
    pub fn run_job(&self, job: &str, checkout: &Checkout, context: &Context) -> JobRun {
        let job = &self.content["jobs"][job];
        let files = checkout.work();
        let [variables, outputs, summary] =
            ["env", "output", "summary"].map(|name| files.join(format!("github-{name}")));
        for file in [&variables, &outputs, &summary] {
            fs::write(file, "").expect("the temporary directory is writable");
        }
        let mut run = JobRun { actions: Vec::new(), steps: Vec::new(), succeeded: true, outputs: BTreeMap::new() };
        for step in job["steps"].as_array().expect("a job has steps") {
            if let Some(action) = step["uses"].as_str() {
                run.actions.push(action.to_owned());
                continue;
            }
            assert!(step.get("if").is_none(), "conditions of steps are not evaluated here");
            let line = step["run"].as_str().expect("a step uses or runs something");
            assert!(!line.contains("${{"), "text from outside belongs into variables, not into a command: {line}");
            let mut command = checkout.bash(&format!("set -e\n{line}"));
            for environment in [&job["env"], &step["env"]] {
                let empty = Map::new();
                for (name, value) in environment.as_object().unwrap_or(&empty) {
                    command.env(name, expanded(value.as_str().expect("variables are text"), context));
                }
            }
            command.envs(assignments(&variables));
            command.env("GITHUB_ENV", &variables).env("GITHUB_OUTPUT", &outputs).env("GITHUB_STEP_SUMMARY", &summary);
            command.env("GITHUB_REPOSITORY", &context["github.repository"]);
            let output = command.output().expect("bash starts");
            run.succeeded = output.status.success();
            run.steps.push((step["name"].as_str().expect("a step has a name").to_owned(), output));
            if !run.succeeded {
                break;
            }
        }
        run.outputs = assignments(&outputs);
        run
    }
}

fn assignments(file: &std::path::Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(file).expect("the file is there");
    text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}

/// A text with each `${{ … }}` replaced by its value.
pub fn expanded(text: &str, context: &Context) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${{") {
        let (expression, after) = after.split_once("}}").expect("an expression ends");
        result.push_str(before);
        result.push_str(&evaluate(expression, context));
        rest = after;
    }
    result + rest
}

/// The value of an expression of names, texts, `==`, `!=`, `&&`, `||` and parentheses. False is the empty text.
pub fn evaluate(expression: &str, context: &Context) -> String {
    let mut parser = Parser { rest: expression.trim(), context };
    let value = parser.either();
    assert!(parser.rest.is_empty(), "`{}` of `{expression}` is not understood", parser.rest);
    value
}

struct Parser<'a> {
    rest: &'a str,
    context: &'a Context,
}

impl Parser<'_> {
    fn takes(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        self.rest = rest.trim_start();
        true
    }

    fn either(&mut self) -> String {
        let mut value = self.both();
        while self.takes("||") {
            let other = self.both();
            value = if value.is_empty() { other } else { value };
        }
        value
    }

    fn both(&mut self) -> String {
        let mut value = self.comparison();
        while self.takes("&&") {
            let other = self.comparison();
            value = if value.is_empty() { value } else { other };
        }
        value
    }

    fn comparison(&mut self) -> String {
        let value = self.term();
        let truth = |holds: bool| if holds { "true".to_owned() } else { String::new() };
        if self.takes("==") {
            truth(value == self.term())
        } else if self.takes("!=") {
            truth(value != self.term())
        } else {
            value
        }
    }

    fn term(&mut self) -> String {
        if self.takes("(") {
            let value = self.either();
            assert!(self.takes(")"), "a parenthesis is not closed before `{}`", self.rest);
            return value;
        }
        if let Some(rest) = self.rest.strip_prefix('\'') {
            let (text, rest) = rest.split_once('\'').expect("a text ends");
            self.rest = rest.trim_start();
            return text.to_owned();
        }
        let end = self.rest.find(|symbol: char| !(symbol.is_ascii_alphanumeric() || "._-".contains(symbol)));
        let (name, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        assert!(name.contains('.'), "`{}` begins with no name", self.rest);
        self.rest = rest.trim_start();
        self.context.get(name).cloned().unwrap_or_default()
    }
}
