/// Why a pickle was not read.
#[derive(Debug, thiserror::Error)]
pub enum PickleError {
    /// More than the rules allow.
    #[error("the pickle has more than {limit} {what}")]
    Limit { what: &'static str, value: u64, limit: u64 },
    /// Opcodes that do not add up.
    #[error("pickle, byte {offset}: {problem}")]
    Damaged { offset: u64, problem: String },
    /// It asks for more than the rules allow: it may be an attack and is never run.
    #[error("pickle, byte {offset}: opcode {opcode}{object} is refused: only {only}")]
    Refused {
        offset: u64,
        opcode: &'static str,
        /// ` (os.system)` for opcodes that name a Python object.
        object: String,
        only: &'static str,
    },
}
