"""The SMT back end: exact formulas decided by Z3 (de Moura and Bjørner, TACAS 2008)."""
