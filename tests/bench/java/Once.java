import java.util.Map;

/** {@link Work#hello} as a program that prints its answer and ends. */
final class Once {
    private Once() {}

    public static void main(String[] arguments) {
        System.out.println(Json.write(Work.hello(Map.of("name", "Hydra"))));
    }
}
