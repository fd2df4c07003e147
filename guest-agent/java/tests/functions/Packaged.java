package com.example;

/** A class in a package, with an inner class. */
public class Packaged {
    static class Inner {
        String text = "inner";
    }

    public static String main(String arguments) {
        return new Inner().text;
    }
}
