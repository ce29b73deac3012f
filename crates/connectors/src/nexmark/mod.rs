//! Source `nexmark`: the NEXMark event stream as a pure function of the event number.
